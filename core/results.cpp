// SPDX-License-Identifier: Apache-2.0
// The columns, rows in memory, merging and the Wilson interval. results_csv.cpp and results_h5.cpp put them on disk.
#include "core/results.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "core/error.h"

namespace kvscope {
namespace {

constexpr bool kText = true, kNumber = false;

constexpr std::array kColumns = std::to_array<ResultColumn>({
    {"run_id", kText, "", "identity of the captured run"},
    {"trace", kText, "", "trace file, or the task's cell when live made no file"},
    {"model", kText, "", "model name from its file"},
    {"mode", kText, "", "replay (offline, on a trace) or live (inside the decoder)"},
    {"device", kText, "", "where it was computed"},
    {"task", kText, "", "niah, text or prompt"},
    {"context", kNumber, "tokens", "prompt tokens; for text, context and continuation"},
    {"depth", kNumber, "fraction", "share of haystack tokens before the needle, as asked"},
    {"protocol", kText, "", "where the policy decides: context or prompt"},
    {"policy", kText, "", "policy spec as given"},
    {"parameters", kText, "", "every parameter in force, key=value, defaults included"},
    {"class", kText, "", "baseline, eviction, quantisation, oracle, ..."},
    {"class_note", kText, "", "what the class does not say: stand-ins, minimum of one entry, guards"},
    {"query_aware", kNumber, "0 or 1", "the decision saw rows of the question"},
    {"growth", kText, "", "append: later entries are added and billed; fixed: the cache stays at its budget"},
    {"guard_sinks", kNumber, "tokens", "first tokens kept whatever the policy says, while a window holds them"},
    {"guard_recent", kNumber, "tokens", "newest tokens kept whatever the policy says"},
    {"keep_fraction_asked", kNumber, "fraction", "asked share of the fp16 bytes; empty for fixed-rate policies"},
    {"kept_fraction", kNumber, "fraction", "bytes kept at the decision over full_bytes"},
    {"kept_tokens", kNumber, "tokens", "entries kept at the decision, mean over layers and KV heads"},
    {"compression_ratio", kNumber, "fraction", "asked share REMOVED, in kvpress's sense; empty unless asked so"},
    {"full_bytes", kNumber, "bytes", "fp16 cache of everything before the decision that a window still holds"},
    {"kept_bytes_prefill", kNumber, "bytes", "cache right after the decision, scales and state included"},
    {"kept_bytes_mean", kNumber, "bytes", "cache, mean over the steps after the decision"},
    {"kept_bytes_peak", kNumber, "bytes", "cache, largest after the decision"},
    {"metadata_bytes", kNumber, "bytes", "position ids, not part of the budget"},
    {"read_bytes_step", kNumber, "bytes", "cache bytes read by one step, mean"},
    {"host_bytes", kNumber, "bytes", "cache held in host memory by an offloading policy"},
    {"moved_bytes_step", kNumber, "bytes", "cache bytes moved between tiers by one step, mean"},
    {"bits", kNumber, "bits", "nominal bits per stored channel, mean over entries"},
    {"attention_loss", kNumber, "fraction", "1 - full-cache weight on the kept entries, mean over queries and heads"},
    {"output_error", kNumber, "fraction",
     "norm of o - o_full over norm of o_full, of a head's output, mean over queries and heads"},
    {"topk_overlap", kNumber, "fraction", "share of the full cache's heaviest entries that were kept"},
    {"needle_retention", kNumber, "fraction",
     "share of needle entries kept, mean over layers (whose window holds some) and KV heads"},
    {"needle_weight_ratio", kNumber, "fraction", "weight on the needle over the policy's cache / over the full cache"},
    {"needle_bits", kNumber, "bits", "bits per channel of needle entries, dropped ones count 0"},
    {"needle_first_lost_step", kNumber, "step", "first query after the decision with a needle entry gone; 0: at once"},
    {"metric", kText, "", "name of the task's score"},
    {"metric_value", kNumber, "fraction", "the task's score, mean over n"},
    {"n", kNumber, "count", "samples behind metric_value"},
    {"ci_low", kNumber, "fraction", "Wilson 95 % interval of metric_value"},
    {"ci_high", kNumber, "fraction", "Wilson 95 % interval of metric_value"},
    {"answer_nll", kNumber, "nats", "negative log-likelihood of the answer's tokens, teacher-forced, mean per token"},
    {"answer_rank", kNumber, "rank", "rank of the answer's first token; 1 is best"},
    {"answer_prefix", kNumber, "digits", "right leading digits of the number in the free answer"},
    {"perplexity", kNumber, "per token", "exp of the mean negative log-likelihood of the continuation"},
    {"kl", kNumber, "nats",
     "KL(full cache to policy) of the next token, mean, teacher-forced on the full cache's words"},
    {"top1_agreement", kNumber, "fraction", "share of steps whose most likely token is the full cache's"},
    {"tokens_per_s", kNumber, "tokens/s", "decoding speed"},
    {"ttft_s", kNumber, "s", "time to the first answer token, prefill included"},
    {"process_peak_bytes", kNumber, "bytes", "largest resident set of the process so far"},
    {"device_peak_bytes", kNumber, "bytes", "largest device memory so far"},
    {"seed", kNumber, "", "seed of the task"},
    {"version", kText, "", "kvscope version that made the row"},
    {"refused_reason", kText, "", "why this policy was not run on this trace; every figure is then empty"},
    {"prefill_bytes_peak", kNumber, "bytes",
     "largest cache before the decision: the full one, or less for a policy that compresses during prefill"},
    {"engine_flags", kText, "",
     "how the model ran: instruction set, activations, prefill chunk; in replay that of the trace"},
});

const ResultColumn* FindColumn(std::string_view name) {
  const auto found =
      std::find_if(kColumns.begin(), kColumns.end(), [&](const auto& column) { return column.name == name; });
  return found == kColumns.end() ? nullptr : &*found;
}

const NamedArray* FindArray(const std::vector<NamedArray>& arrays, std::string_view name) {
  const auto found = std::find_if(arrays.begin(), arrays.end(), [&](const auto& array) { return array.name == name; });
  return found == arrays.end() ? nullptr : &*found;
}

}  // namespace

std::span<const ResultColumn> ResultColumns() {
  return kColumns;
}

std::string ResultColumnsMarkdown() {
  std::string table = "| column | type | unit | meaning |\n| --- | --- | --- | --- |\n";
  for (const ResultColumn& column : kColumns) {
    table += StrCat("| `", column.name, "` | ", column.is_text ? "text" : "number", " | ", column.unit, " | ",
                    column.help, " |\n");
  }
  return table;
}

void ResultRow::Set(std::string_view column, double value) {
  const ResultColumn* known = FindColumn(column);
  KVSCOPE_CHECK(known && !known->is_text);
  if (!std::isfinite(value)) {
    throw Error(StrCat("result column ", column, ": expected a finite number, found ", value,
                       "; the trace or model holds values that are not finite"));
  }
  values_[std::string(column)] = value;
}

void ResultRow::Set(std::string_view column, std::string_view text) {
  const ResultColumn* known = FindColumn(column);
  KVSCOPE_CHECK(known && known->is_text);
  if (text.empty()) {
    if (const auto found = values_.find(column); found != values_.end()) values_.erase(found);
  } else {
    values_[std::string(column)] = std::string(text);
  }
}

std::optional<double> ResultRow::Number(std::string_view column) const {
  const ResultColumn* known = FindColumn(column);
  KVSCOPE_CHECK(known && !known->is_text);
  const auto found = values_.find(column);
  if (found == values_.end()) return std::nullopt;
  return std::get<double>(found->second);
}

std::string ResultRow::Text(std::string_view column) const {
  const ResultColumn* known = FindColumn(column);
  KVSCOPE_CHECK(known && known->is_text);
  const auto found = values_.find(column);
  return found == values_.end() ? "" : std::get<std::string>(found->second);
}

bool ResultRow::Has(std::string_view column) const {
  KVSCOPE_CHECK(FindColumn(column));
  return values_.find(column) != values_.end();
}

const NamedArray* Results::Row::Find(std::string_view name) const {
  return FindArray(arrays, name);
}
const NamedArray* Results::Trace::Find(std::string_view name) const {
  return FindArray(arrays, name);
}

Results MergeResults(std::span<const Results> inputs) {
  Results merged;
  std::set<ResultRow> seen;
  for (const Results& input : inputs) {
    for (const Results::Row& row : input.rows) {
      if (seen.insert(row.figures).second) merged.rows.push_back(row);
    }
    for (const Results::Trace& trace : input.traces) {
      const auto same = [&](const Results::Trace& other) { return other.run_id == trace.run_id; };
      const auto known = std::find_if(merged.traces.begin(), merged.traces.end(), same);
      if (known == merged.traces.end()) {
        merged.traces.push_back(trace);
        continue;
      }
      known->attributes.insert(trace.attributes.begin(), trace.attributes.end());
      for (const NamedArray& array : trace.arrays) {
        if (!known->Find(array.name)) known->arrays.push_back(array);
      }
    }
    for (const std::string& command : input.commands) {
      if (std::find(merged.commands.begin(), merged.commands.end(), command) == merged.commands.end()) {
        merged.commands.push_back(command);
      }
    }
  }
  return merged;
}

Interval WilsonInterval(double successes, double n) {
  KVSCOPE_CHECK(n > 0 && successes >= 0 && successes <= n);
  constexpr double z = 1.959963984540054;  // 97.5 % point of the normal distribution
  const double share = successes / n, z2 = z * z;
  const double centre = (share + z2 / (2 * n)) / (1 + z2 / n);
  const double half = z / (1 + z2 / n) * std::sqrt(share * (1 - share) / n + z2 / (4 * n * n));
  return {std::max(0.0, centre - half), std::min(1.0, centre + half)};
}

}  // namespace kvscope
