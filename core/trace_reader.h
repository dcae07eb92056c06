// SPDX-License-Identifier: Apache-2.0
// Opens a trace and trusts nothing in it: every link type, rank, extent, element type, chunk size and name length is
// checked before memory is taken. A file still being written, or left by a killed capture, opens at its last flush.
#pragma once

#include <memory>
#include <string>

#include "core/trace.h"
#include "core/trace_lock.h"

namespace kvscope {

class TraceReader final : public TraceSource {
 public:
  // Throws Error with place, expectation, finding and remedy.
  static std::unique_ptr<TraceReader> Open(const std::string& path);
  ~TraceReader() override;

  const TraceInfo& info() const override;
  const TraceTokens& tokens() const override;
  const TraceAnswer& answer() const override;
  const std::vector<int>& q_token(int layer_index) const override;
  std::shared_ptr<const KvHeadData> ReadKvHead(int layer_index, int kv_head_index) const override;

  TraceStatus status() const;
  const std::vector<StepInfo>& steps() const;
  bool HasRows() const;
  int num_rows() const;  // recorded decode rows of every head
  // head_index counts info().layers[layer_index].heads.
  RecordedRows ReadRows(int layer_index, int head_index) const;
  bool HasColumns() const;
  int num_column_tokens(int layer_index) const;  // 0 at other levels
  int num_column_rows(int layer_index) const;    // query rows in the statistics
  // Throws Error at any level but relevance.
  ColumnStatistics ReadColumnStatistics(int layer_index) const;
  int64_t file_bytes() const;
  // Whether another process may still be writing: reloads extents and returns true when anything grew.
  bool Refresh();

 private:
  TraceReader();
  struct State;
  std::unique_ptr<State> state_;
};

// Clears the marks of an interrupted writer so that any HDF5 program opens the file; status becomes `recovered`.
// Throws Error while a writer has the file open.
void RecoverTrace(const std::string& path);

struct VerifyResult {
  double largest_row_difference = 0;      // recorded rows against exp(q·k*scale - lse); expected < 5e-4
  double largest_rebuilt_sum_error = 0;   // |sum - 1| of rebuilt rows; expected < 1e-4
  double largest_recorded_sum_error = 0;  // expected < 5e-4 + 3e-8 * tokens
  int64_t rows_checked = 0;
  std::string worst_place;  // "layer 3, head 1, token 2047"
  bool ok = false;
};
// max_rows_per_head bounds the prefill rows whose sums are rebuilt (spread evenly); recorded rows are all checked.
VerifyResult VerifyTrace(const TraceReader& trace, int max_rows_per_head = 16);

}  // namespace kvscope
