// SPDX-License-Identifier: Apache-2.0
// A trace as the panels see it: opened off the frame's thread, first in a child process, as HDF5 can crash on a hostile
// file. A file that is still being written is followed.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/trace_reader.h"
#include "core/trace_summary.h"
#include "replay/map_cache.h"
#include "replay/weight_map.h"
#include "viewer/jobs.h"

namespace kvscope {

// A run of tokens with a meaning, as bands on axes show it.
struct LabelledBand {
  std::string kind;  // needle, question, answer ...
  int token_begin = 0, token_end = 0;
};

// Outlives the threads of its jobs.
class TraceDocument {
 public:
  enum class State { kLoading, kReady, kFailed };

  TraceDocument(std::string path, Jobs& jobs);
  // Looks for more of a file that is still being written, when no job runs; a few times a second.
  void Follow();

  const std::string& path() const { return path_; }
  State state() const { return state_; }
  const std::string& failure() const { return failure_; }  // one sentence
  // When ready.
  const TraceReader& reader() const { return *reader_; }
  const std::vector<LabelledBand>& bands() const { return bands_; }  // by their first token
  std::vector<TokenBand> BandsOf(std::initializer_list<std::string_view> kinds) const;
  // The queries whose weights are a token's relevance: question and answer, without either the last kLastRows.
  std::vector<TokenBand> Askers() const;
  std::string AskersText() const;  // "question and answer", "the last 32 queries"
  static constexpr int kLastRows = 32;
  int num_tokens() const { return static_cast<int>(reader_->tokens().ids.size()); }
  bool is_growing() const { return reader_->status() == TraceStatus::kRecording; }
  const std::vector<SummaryLine>& facts() const { return facts_; }
  // Of whole heads, kept beside the trace; null while it grows.
  const std::shared_ptr<MapCache>& maps() const { return maps_; }
  // A KV head's q, k, v and lse: at once when it was the last one read, else null, and a job reads it. Only that one is
  // kept, and only one is read at a time: hold it no longer than a job works on it, and there are never more than two.
  std::shared_ptr<const KvHeadData> KvHead(int layer_index, int kv_head_index);
  const std::string& kv_head_failure() const { return kv_head_failure_; }  // why there is none, else empty

 private:
  void Describe();

  std::string path_;
  Jobs& jobs_;
  State state_ = State::kLoading;
  std::string failure_, kv_head_failure_;
  std::unique_ptr<TraceReader> reader_;
  std::vector<LabelledBand> bands_;
  std::vector<SummaryLine> facts_;
  std::shared_ptr<MapCache> maps_;
  int layer_index_ = -1, kv_head_index_ = -1;  // of kv_head_, or the one that is being read
  std::shared_ptr<const KvHeadData> kv_head_;
};

}  // namespace kvscope
