// SPDX-License-Identifier: Apache-2.0
#include "viewer/results_document.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "core/error.h"
#include "core/probe.h"

namespace kvscope {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTraceEnd = ".kvtrace.h5";

struct Loaded {
  std::shared_ptr<const Results> results;
  std::string failure;
};

Loaded Load(const std::string& path) {
  Loaded loaded;
  try {
    ProbeInChild(path, [&] { ReadResults(path, ReadEntries::kNone); });
    loaded.results = std::make_shared<const Results>(ReadResults(path, ReadEntries::kNone));
  } catch (const Error& error) {
    loaded.failure = error.what();
  }
  return loaded;
}

// Files directly inside that may be traces or results, by name.
std::vector<std::string> FilesIn(const std::string& folder, std::string& failure) {
  std::vector<std::string> files;
  std::error_code refused;
  for (fs::directory_iterator entry(folder, refused), end; !refused && entry != end; entry.increment(refused)) {
    std::error_code ignored;
    if (entry->is_regular_file(ignored) && entry->path().extension() == ".h5") files.push_back(entry->path().string());
  }
  if (refused) failure = StrCat(folder, ": expected a folder that can be read, found: ", refused.message());
  std::ranges::sort(files);
  return files;
}

}  // namespace

ResultsDocument::ResultsDocument(std::string path, Jobs& jobs) : path_(std::move(path)) {
  const std::string slot = StrCat("results ", reinterpret_cast<uintptr_t>(this));
  jobs.Start(slot, [this, file = path_](const std::atomic<bool>&) -> Jobs::Finish {
    const auto loaded = std::make_shared<Loaded>(Load(file));
    return [this, loaded] { results_ = loaded->results, failure_ = loaded->failure; };
  });
}

SortedFiles SortFiles(const std::vector<std::string>& paths, const std::atomic<bool>& is_cancelled) {
  SortedFiles sorted;
  for (const std::string& path : paths) {
    std::error_code ignored;
    if (!fs::is_directory(path, ignored)) {
      (SaysResultsInChild(path) ? sorted.results : sorted.open_traces).push_back(path);
      continue;
    }
    std::vector<std::string> traces;
    const size_t results_before = sorted.results.size();
    for (const std::string& file : FilesIn(path, sorted.failure)) {
      if (is_cancelled) return sorted;
      if (file.ends_with(kTraceEnd)) {
        traces.push_back(file);
      } else if (SaysResultsInChild(file)) {
        sorted.results.push_back(file);
      }
    }
    if (!traces.empty()) sorted.open_traces.push_back(traces.front());
    sorted.listed_traces.insert(sorted.listed_traces.end(), traces.begin(), traces.end());
    if (traces.empty() && sorted.results.size() == results_before && sorted.failure.empty()) {
      sorted.failure = StrCat(path, ": expected traces (*.kvtrace.h5) or results of kvscope replay directly inside, ",
                              "found neither");
    }
  }
  return sorted;
}

}  // namespace kvscope
