// SPDX-License-Identifier: Apache-2.0
#include "core/trace_lock.h"

#include <fcntl.h>
#include <unistd.h>

namespace kvscope {
namespace {

// One byte far behind any data: locks need no byte to be there.
struct flock Range() {
  struct flock range = {};
  range.l_type = F_WRLCK;
  range.l_whence = SEEK_SET;
  range.l_start = int64_t{1} << 60;
  range.l_len = 1;
  return range;
}

}  // namespace

WriterLock::WriterLock(const std::string& path) : file_(open(path.c_str(), O_RDWR | O_CLOEXEC)) {
  struct flock range = Range();
  if (file_ >= 0) static_cast<void>(fcntl(file_, F_OFD_SETLK, &range));
}

WriterLock::~WriterLock() {
  if (file_ >= 0) close(file_);
}

bool IsBeingWritten(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  struct flock range = Range();
  const bool is_locked = fcntl(file, F_OFD_GETLK, &range) == 0 && range.l_type != F_UNLCK;
  close(file);
  return is_locked;
}

}  // namespace kvscope
