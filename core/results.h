// SPDX-License-Identifier: Apache-2.0
// Results of replay and live: a table with fixed columns, arrays behind each row, and what was seen in each trace.
// A figure that was not measured is absent, never 0. traces/FORMAT.md holds the generated list of columns.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace kvscope {

struct ResultColumn {
  std::string_view name;
  bool is_text;
  std::string_view unit;  // "bytes", "tokens", "nats", "fraction", ...
  std::string_view help;
};
// Every column in file order. Names are a contract with other people's scripts: append only.
std::span<const ResultColumn> ResultColumns();
// The columns as a Markdown table, as traces/FORMAT.md has it.
std::string ResultColumnsMarkdown();

class ResultRow {
 public:
  // The column must exist and have that type (else a bug). A number that is not finite throws Error; an empty text
  // means absent.
  void Set(std::string_view column, double value);
  void Set(std::string_view column, std::string_view text);
  std::optional<double> Number(std::string_view column) const;
  std::string Text(std::string_view column) const;  // empty when absent
  bool Has(std::string_view column) const;
  friend auto operator<=>(const ResultRow&, const ResultRow&) = default;

 private:
  std::map<std::string, std::variant<double, std::string>, std::less<>> values_;
};

// A dense float array with names on its axes: "needle_retention" [layer, kv_head].
struct NamedArray {
  std::string name;
  std::vector<std::string> axes;
  std::vector<int64_t> shape;
  std::vector<float> values;
};

// Arrays that replay and live put behind a row, by name (absent where not measured). needle_retention, needle_bits
// and needle_rank count the part of the needle that the layer's window holds, and are NaN where it has left it:
//   needle_retention [layer, kv_head]   share of needle tokens kept; replay: mean over answer queries
//   needle_bits      [layer, kv_head]   mean bits of the needle's entries right after the decision, dropped ones 0
//   needle_rank      [layer, kv_head, needle token]  how many tokens the policy ranked before it at the decision
//   needle_weight    [layer, head]      weight on the needle over the policy's own cache, mean over answer queries
//   attention_loss   [layer, head]      mean over evaluated queries
//   attention_loss_step [query]         mean over layers and heads
//   output_error     [layer, head]
//   needle_retention_step [query]       mean over layers and KV heads
//   kept             [layer, kv_head, token]  1 where kept right after the decision
//   bits             [layer, kv_head, token]  bits of the entry then, 0 where dropped; only where entries differ
struct Results {
  struct Row {
    ResultRow figures;
    std::vector<NamedArray> arrays;
    const NamedArray* Find(std::string_view name) const;
  };
  // What the trace itself shows, whatever the policy. Arrays:
  //   needle_weight [layer, head]  mean full-cache weight on the needle over answer queries
  //   needle_auc_STAT [layer, head]  AUC of a relevance statistic for needle tokens against the rest of the context
  //   relevance_needle, relevance_rest [bin]  histogram of log10 relevance: counts of (token, head) pairs; bin i covers
  //     [low + i * width, low + (i + 1) * width), attributes relevance_log10_low and relevance_log10_width; attribute
  //     relevance_statistic names what was summed
  //   mass_by_distance [layer, bin]  share of attention by distance: bin 0 is the token itself, bin b covers distances
  //     2^(b-1) .. 2^b - 1;  sink_mass [layer, head] share on the first tokens (attribute sink_tokens, default 4)
  //   adjacent_similarity [layer - 1]  cosine of relevance between neighbouring layers
  // Attributes used by the report where present: needle_begin, needle_end, prompt_tokens, layers, heads, kv_heads
  // (numbers as text), model, task, context, depth, and layer_numbers, kv_head_numbers, head_numbers (comma-separated
  // absolute numbers of the recorded ones; absent: 0, 1, 2, ...).
  struct Trace {
    std::string run_id, path;
    std::map<std::string, std::string> attributes;
    std::vector<NamedArray> arrays;
    const NamedArray* Find(std::string_view name) const;
  };
  std::vector<Row> rows;
  std::vector<Trace> traces;
  std::vector<std::string> commands;  // that made this file
};

// HDF5. Throws Error; the target appears only when complete.
void WriteResults(const std::string& path, const Results& results);
// kNone leaves the arrays `kept` and `bits`, most of a file, where they are.
enum class ReadEntries { kAll, kNone };
Results ReadResults(const std::string& path, ReadEntries entries = ReadEntries::kAll);
bool SaysResults(const std::string& path);  // by its first attribute; see core/probe.h for files that are not trusted
std::string CsvField(const std::string& text);                   // RFC 4180: in quotes where needed
void WriteCsv(const std::string& path, const Results& results);  // "-" is stdout

// All rows (exact duplicates once), traces joined by run_id, commands once each.
Results MergeResults(std::span<const Results> inputs);

// Wilson score interval of `successes` out of n at 95 %.
struct Interval {
  double low, high;
};
Interval WilsonInterval(double successes, double n);

}  // namespace kvscope
