// SPDX-License-Identifier: Apache-2.0
// What a trace knows before its arrays grow, to a file and back: the two directions side by side, so that they agree.
#pragma once

#include <vector>

#include "core/h5.h"
#include "core/trace.h"
#include "core/trace_columns.h"

namespace kvscope {

// Creates every group, and the attributes and data sets that never change.
void WriteMetadata(h5::File& file, const TraceInfo& info, double flush_interval_secs);
// Everything of TraceInfo but segments and spans. Throws Error for a version this program does not know.
TraceInfo ReadMetadata(const h5::File& file, Trust trust);

class SegmentTables {
 public:
  SegmentTables() = default;
  explicit SegmentTables(h5::File& file);
  void Replace(const std::vector<Segment>& segments, const std::vector<Span>& spans);

 private:
  TextColumn role_, kind_, label_;
  Column<int> turn_, segment_begin_, segment_end_, span_begin_, span_end_;
  Column<uint8_t> decide_at_;
};
void ReadSegments(const h5::File& file, Trust trust, TraceInfo& info);

// Segments of an answer may be announced before the answer is there, so their end is not bounded by the tokens.
class StepTables {
 public:
  StepTables() = default;
  explicit StepTables(h5::File& file);
  void Append(const std::vector<StepInfo>& steps);

 private:
  Column<int64_t> time_ns_, stall_ns_, top_offsets_;
  Column<int> sampled_id_, queue_depth_, top_id_;
  Column<float> top_logprob_;
};
std::vector<StepInfo> ReadSteps(const h5::File& file, Trust trust);

bool HoldsVectors(TraceLevel level);  // q, k, v, lse
bool HoldsRows(TraceLevel level);
bool HoldsColumns(TraceLevel level);  // column statistics

}  // namespace kvscope
