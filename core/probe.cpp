// SPDX-License-Identifier: Apache-2.0
#include "core/probe.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "core/error.h"
#include "core/h5.h"
#include "core/results.h"
#include "core/trace_reader.h"

namespace kvscope {
namespace {

constexpr uint64_t kMostChildMemory = uint64_t{8} << 30;

void LimitMemory() {
#ifndef __SANITIZE_ADDRESS__  // whose shadow counts as memory
  uint64_t pages = 0;
  if (FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%lu", &pages) != 1) pages = 0;
    std::fclose(file);
  }
  const rlim_t most = pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) + kMostChildMemory;
  const struct rlimit limit = {most, most};
  if (pages) setrlimit(RLIMIT_AS, &limit);
#endif
}

[[noreturn]] void ReadAndReport(const std::string& path, const std::function<void()>& read, double timeout_secs,
                                int report) {
  for (const int number : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGALRM}) signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const struct rlimit no_core = {0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  LimitMemory();
  alarm(static_cast<unsigned>(std::ceil(timeout_secs)));
  if (!std::freopen("/dev/null", "w", stderr)) close(STDERR_FILENO);
  std::string why;
  try {
    read();
  } catch (const std::exception& error) {
    why = error.what();
    if (why.empty()) why = path + ": refused";
  }
  if (write(report, why.data(), why.size()) < 0) _exit(2);
  _exit(why.empty() ? 0 : 1);
}

std::string ReadAll(int file) {
  std::string text;
  char part[4096];
  for (;;) {
    const ssize_t count = read(file, part, sizeof part);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return text;
    text.append(part, static_cast<size_t>(count));
  }
}

}  // namespace

void ProbeInChild(const std::string& path, const std::function<void()>& read, double timeout_secs) {
  int ends[2];
  if (pipe(ends) != 0) throw Error(StrCat(path, ": cannot start a probe (", std::strerror(errno), ")"));
  pid_t child = -1;
  {
    const h5::Lock lock;  // no other thread is inside HDF5 while the process is copied
    std::fflush(nullptr);
    child = fork();
    if (child == 0) {
      close(ends[0]);
      ReadAndReport(path, read, timeout_secs, ends[1]);
    }
  }
  close(ends[1]);
  if (child < 0) {
    close(ends[0]);
    throw Error(StrCat(path, ": cannot start a probe (", std::strerror(errno), ")"));
  }
  const std::string why = ReadAll(ends[0]);
  close(ends[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
    throw Error(StrCat(path, ": opening it took longer than ", timeout_secs, " s; the file is damaged or hostile"));
  }
  if (WIFSIGNALED(status)) {
    throw Error(
        StrCat(path, ": opening it crashes HDF5 (", strsignal(WTERMSIG(status)), "); the file is damaged or hostile"));
  }
  if (WEXITSTATUS(status) != 0) throw Error(why.empty() ? StrCat(path, ": the probe failed") : why);
}

void ProbeTraceInChild(const std::string& path, double timeout_secs) {
  ProbeInChild(
      path, [&] { TraceReader::Open(path); }, timeout_secs);
}

bool SaysResultsInChild(const std::string& path, double timeout_secs) {
  const auto check = [&] {
    if (!SaysResults(path)) throw Error(path + ": no results");
  };
  try {
    ProbeInChild(path, check, timeout_secs);
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace kvscope
