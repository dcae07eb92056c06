// SPDX-License-Identifier: Apache-2.0
// What a trace IS: one run of a model, as its attention saw it. Read this header first.
//
// A run feeds `prompt_tokens` tokens and then, step by step, the tokens it generated (step 0 feeds back the first
// generated token). Every layer keeps, in rotate-half RoPE order and exactly as the decoder attended with them:
//   q    [head, row, head_dim_k]      k  [kv_head, token, head_dim_k]      v  [kv_head, token, head_dim_v]
//   lse  [head, row]                  natural log-sum-exp of the scaled scores of that row over tokens 0..q_token[row]
//   rows [head, step, token]          recorded decode weights; row `step` has rows_token[step] + 1 entries
// so weight(head, row, token) = exp(q·k * scale - lse), and replay needs no model. traces/FORMAT.md is the file format.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/dtype.h"

namespace kvscope {

// What was recorded. Each level contains less than the one before.
enum class TraceLevel { kQkvRows, kQkv, kRows, kRelevance };
enum class TraceStatus { kRecording, kComplete, kRecovered };

std::string_view Name(TraceLevel level);    // "qkv+rows", "qkv", "rows", "relevance"
std::string_view Name(TraceStatus status);  // "recording", "complete", "recovered"
TraceLevel TraceLevelFromName(std::string_view name);

// A part of the sequence with one role: system, context, question, answer, continuation ... Half-open.
struct Segment {
  std::string role;
  int turn = 0;
  int token_begin = 0, token_end = 0;
  bool decide_at = false;  // a policy under --decide-at context makes its plan at token_end
};

// A place worth looking at: kind is needle, distractor, question, answer ... Half-open.
struct Span {
  std::string kind;
  int token_begin = 0, token_end = 0;
  std::string label;  // the text
};

struct RopeSet {
  std::string name;
  std::vector<double> inv_freq;  // [head_dim / 2]
  double attention_scaling = 1.0;
};

struct LayerInfo {
  int layer = 0;                        // absolute, 0-based
  std::string kind = "full";            // full | window | linear
  int window = 0;                       // tokens visible to a row, 0: all
  int num_heads = 0, num_kv_heads = 0;  // of the model, not of the file
  int head_dim_k = 0, head_dim_v = 0;
  float scale = 0;    // score = scale * q·k
  float softcap = 0;  // 0: none
  bool sink = false;
  std::string rope_set = "default";
  std::vector<int> heads;     // absolute query heads stored, ascending; all heads of each stored kv_head
  std::vector<int> kv_heads;  // absolute KV heads stored, ascending
  int HeadsPerKvHead() const { return num_heads / num_kv_heads; }
};

struct ModelInfo {
  std::string name, architecture;
  int num_layers = 0, vocab = 0;
  std::string file_sha256;
  double norm_epsilon = 0;
  std::string backend;       // "cpu", "cuda"
  std::string device;        // as the system names it
  std::string engine_flags;  // -march, threads, chunk size: what a second run needs for the same bits
  DType kv_dtype = DType::kF16;
  int prefill_chunk = 0;  // tokens; chunks also break at segment boundaries
  std::string query_rows = "all";
};

struct TaskInfo {
  std::string name;                    // niah, text, prompt
  std::string parameters_json = "{}";  // length, depth asked, depth real, wording, haystack name and hash ...
  uint64_t seed = 0;
  std::vector<std::string> expected_answers;  // any of them counts
  std::string scorer;                         // "contains", "none"
  std::string priming_text;                   // answer_nll is measured after this text ...
  std::string scored_text;                    // ... over the tokens of this one
};

// Everything but the arrays that grow; written before recording starts.
struct TraceInfo {
  std::string run_id, created_utc, generator;
  TraceLevel level = TraceLevel::kQkvRows;
  ModelInfo model;
  std::vector<RopeSet> rope_sets;
  std::vector<LayerInfo> layers;  // those recorded, ascending
  std::vector<Segment> segments;
  std::vector<Span> spans;
  TaskInfo task;
  int prompt_tokens = 0;  // tokens before step 0
};

// Grows with the run. All have one entry per token.
struct TraceTokens {
  std::vector<int> ids;
  std::vector<int> positions;
  std::vector<std::string> pieces;  // raw bytes of each token
  std::vector<float> logprobs;      // of the token given those before it; NaN where not computed
};

// One decode step.
struct StepInfo {
  int64_t time_ns = 0;  // since recording began
  int sampled_id = 0;
  std::vector<int> top_ids;  // alternatives, best first
  std::vector<float> top_logprobs;
  int queue_depth = 0;   // chunks waiting for the writer when this step ended
  int64_t stall_ns = 0;  // time this step waited for the writer
};

// How the run ended.
struct TraceAnswer {
  std::string text;  // the model's answer
  double score = 0;  // by the task's scorer; NaN without one
};

// What one KV head of one layer saw; heads of its group are consecutive. Missing parts (by level) are empty.
struct KvHeadData {
  int num_tokens = 0, num_rows = 0, group = 0;  // group = query heads per KV head
  int head_dim_k = 0, head_dim_v = 0;
  Buffer q;                // [group, num_rows, head_dim_k]
  Buffer k;                // [num_tokens, head_dim_k]
  Buffer v;                // [num_tokens, head_dim_v]
  std::vector<float> lse;  // [group, num_rows]
};

// Recorded decode rows of one head, padded with zeros to num_tokens.
struct RecordedRows {
  int num_steps = 0, num_tokens = 0;
  std::vector<int> row_token;  // [num_steps] the query token of each row
  std::vector<Half> weights;   // [num_steps, num_tokens]
};

// Level relevance: what every token received, per stored query head, from the first num_rows query rows.
struct ColumnStatistics {
  int num_rows = 0, num_tokens = 0;
  std::vector<float> sum;  // [heads, num_tokens] of weight(t, token) over the rows t >= token
  std::vector<float> max;  // [heads, num_tokens]
};

// Where replay reads from: a file (TraceReader) or a run still in memory (live). Thread-safe for concurrent reads.
class TraceSource {
 public:
  virtual ~TraceSource() = default;
  virtual const TraceInfo& info() const = 0;
  virtual const TraceTokens& tokens() const = 0;
  virtual const TraceAnswer& answer() const = 0;
  // Token of each stored row of q and lse, ascending. layer_index counts the layers of info().layers.
  virtual const std::vector<int>& q_token(int layer_index) const = 0;
  // kv_head_index counts info().layers[layer_index].kv_heads. Throws Error when the level holds no q, k, v.
  virtual std::shared_ptr<const KvHeadData> ReadKvHead(int layer_index, int kv_head_index) const = 0;
};

}  // namespace kvscope
