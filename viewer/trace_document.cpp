// SPDX-License-Identifier: Apache-2.0
#include "viewer/trace_document.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/probe.h"

namespace kvscope {
namespace {

// Of a document's own, though two may show the same file.
std::string SlotOf(const char* work, const TraceDocument* document) {
  return StrCat(work, " ", reinterpret_cast<uintptr_t>(document));
}

// What a job found out about a file.
struct Opened {
  std::unique_ptr<TraceReader> reader;
  std::string failure;
};

Opened Open(const std::string& path) {
  Opened opened;
  try {
    ProbeTraceInChild(path);
    opened.reader = TraceReader::Open(path);
  } catch (const Error& error) {
    opened.failure = error.what();
  }
  return opened;
}

}  // namespace

TraceDocument::TraceDocument(std::string path, Jobs& jobs) : path_(std::move(path)), jobs_(jobs) {
  jobs_.Start(SlotOf("open", this), [this, file = path_](const std::atomic<bool>&) -> Jobs::Finish {
    const auto opened = std::make_shared<Opened>(Open(file));
    return [this, opened] {
      failure_ = std::move(opened->failure);
      reader_ = std::move(opened->reader);
      state_ = reader_ ? State::kReady : State::kFailed;
      if (reader_) Describe();
    };
  });
}

void TraceDocument::Describe() {
  bands_.clear();
  for (const Span& span : reader_->info().spans) bands_.push_back({span.kind, span.token_begin, span.token_end});
  // Who asks is marked by spans, or else by segments.
  for (const char* const role : {"question", "answer"}) {
    if (std::ranges::any_of(bands_, [role](const LabelledBand& band) { return band.kind == role; })) continue;
    for (const Segment& segment : reader_->info().segments) {
      if (segment.role == role) bands_.push_back({role, segment.token_begin, segment.token_end});
    }
  }
  std::ranges::stable_sort(bands_, {}, &LabelledBand::token_begin);
  facts_ = SummaryLines(path_, *reader_);
  if (!is_growing() && !maps_) {
    // Every run has an id of its own; the rest is for files that were made or changed by hand.
    maps_ = std::make_shared<MapCache>(
        path_, StrCat(reader_->info().run_id, "\n", num_tokens(), " tokens, ", reader_->file_bytes(), " bytes"));
  }
}

std::vector<TokenBand> TraceDocument::BandsOf(std::initializer_list<std::string_view> kinds) const {
  std::vector<TokenBand> found;
  for (const LabelledBand& band : bands_) {
    if (std::ranges::find(kinds, band.kind) != kinds.end()) found.push_back({band.token_begin, band.token_end});
  }
  return found;
}

std::vector<TokenBand> TraceDocument::Askers() const {
  std::vector<TokenBand> askers = BandsOf({"question", "answer"});
  if (askers.empty()) askers.push_back({std::max(0, num_tokens() - kLastRows), num_tokens()});
  return askers;
}

std::string TraceDocument::AskersText() const {
  return BandsOf({"question", "answer"}).empty() ? StrCat("the last ", kLastRows, " queries") : "question and answer";
}

void TraceDocument::Follow() {
  if (state_ != State::kReady || !is_growing() || !jobs_.IsIdle()) return;  // jobs read what Refresh would change
  try {
    if (!reader_->Refresh()) return;
    kv_head_ = nullptr;
    layer_index_ = kv_head_index_ = -1;
    Describe();
  } catch (const Error& error) {
    state_ = State::kFailed;
    failure_ = error.what();
  }
}

std::shared_ptr<const KvHeadData> TraceDocument::KvHead(int layer_index, int kv_head_index) {
  if (layer_index == layer_index_ && kv_head_index == kv_head_index_) return kv_head_;
  if (jobs_.IsBusy(SlotOf("read", this))) return nullptr;  // a reading cannot be stopped, and two take twice the memory
  layer_index_ = layer_index, kv_head_index_ = kv_head_index;
  kv_head_ = nullptr;
  kv_head_failure_.clear();
  jobs_.Start(SlotOf("read", this), [this, layer_index, kv_head_index](const std::atomic<bool>&) -> Jobs::Finish {
    std::shared_ptr<const KvHeadData> data;
    std::string failure;
    try {
      data = ReadKvHeadForWeights(*reader_, layer_index, kv_head_index);
    } catch (const Error& error) {
      failure = error.what();
    }
    return [this, data, failure] { kv_head_ = data, kv_head_failure_ = failure; };
  });
  return nullptr;
}

}  // namespace kvscope
