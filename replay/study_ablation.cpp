// SPDX-License-Identifier: Apache-2.0
// One factor at a time around the method: what each choice is worth.
#include "replay/study_ablation.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "core/error.h"
#include "replay/chart_axis.h"
#include "replay/chart_strips.h"
#include "replay/policy_spec.h"
#include "replay/study_sections.h"

namespace kvscope {
namespace {

std::optional<double> NumberOf(const std::string& text) {
  double value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || stop != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string GuardLevel(const ResultRow& row) {
  const double sinks = row.Number("guard_sinks").value_or(0), recent = row.Number("guard_recent").value_or(0);
  return sinks == 0 && recent == 0 ? "" : StrCat("guards ", sinks, "+", recent);
}

SpecPieces PiecesOf(const std::string& policy) {
  try {
    return SplitSpec(policy);
  } catch (const Error&) {
    return SpecPieces{policy, "", "", "", "", {}};  // a name from a file that is no spec
  }
}

}  // namespace

Variant VariantOf(const ResultRow& row, const std::string& method) {
  Variant variant;
  const std::string policy = row.Text("policy"), guards = GuardLevel(row);
  const SpecPieces pieces = PiecesOf(policy), base = PiecesOf(method);
  if (pieces.scorer != base.scorer || !policy.starts_with(method)) {
    variant.is_other = true;
    variant.factor = "other policies";
    variant.level = policy + (guards.empty() ? "" : " · " + guards);
    return variant;
  }
  variant.level = policy.substr(method.size());
  if (variant.level.starts_with(":")) variant.level.erase(0, 1);
  std::vector<std::string> keys;
  for (const auto& [key, value] : pieces.values) {
    const auto known = base.values.find(key);
    if (known == base.values.end() || known->second != value) keys.push_back(key);
  }
  if (pieces.allocator != base.allocator) {
    variant.factor = "allocator";
  } else if (pieces.chunk != base.chunk) {
    variant.factor = "granularity";
  } else if (pieces.reader != base.reader) {
    variant.factor = "reader";
  } else if (!keys.empty()) {
    variant.factor = Listed(keys);
  } else if (pieces.store != base.store) {
    variant.factor = "store";
  } else if (!guards.empty()) {
    variant.factor = "guards";
  } else {
    variant.is_base = true;
    variant.level = method;
  }
  if (!guards.empty()) {
    if (variant.factor != "guards") variant.factor += " and guards";
    variant.level += (variant.level.empty() ? "" : ", ") + guards;
  }
  return variant;
}

std::optional<double> ParameterOf(const ResultRow& row, const std::string& key) {
  const std::string all = ":" + row.Text("parameters") + ":", mark = ":" + key + "=";
  const size_t begin = all.find(mark);
  if (begin == std::string::npos) return std::nullopt;
  const size_t from = begin + mark.size();
  return NumberOf(all.substr(from, all.find(':', from) - from));
}

namespace {

struct LabeledVariant {
  Variant variant;
  std::string label;
};

// Ordered by factor; within one by number where levels have one, else as they came. Other policies come last.
std::vector<LabeledVariant> Variants(const StudyTable& table, const std::string& method) {
  std::vector<LabeledVariant> variants;
  for (const Cell& cell : table.data.cells) {
    const auto same = [&](const auto& one) { return one.label == cell.label; };
    if (std::any_of(variants.begin(), variants.end(), same)) continue;
    variants.push_back({VariantOf(cell.rows[0]->figures, method), cell.label});
  }
  std::vector<std::string> order;
  for (const auto& one : variants) {
    if (std::find(order.begin(), order.end(), one.variant.factor) == order.end()) order.push_back(one.variant.factor);
  }
  const auto rank = [&](const Variant& variant) {
    if (variant.is_base || variant.is_other) return variant.is_base ? -1 : static_cast<int>(order.size());
    return static_cast<int>(std::find(order.begin(), order.end(), variant.factor) - order.begin());
  };
  const auto number = [](const Variant& variant) {
    return NumberOf(variant.level.substr(variant.level.rfind('=') + 1)).value_or(0);
  };
  std::stable_sort(variants.begin(), variants.end(), [&](const auto& a, const auto& b) {
    const std::pair key_a(rank(a.variant), number(a.variant)), key_b(rank(b.variant), number(b.variant));
    return key_a < key_b;
  });
  return variants;
}

const Cell* AnyMode(const StudyTable& table, const std::string& label, double fraction) {
  const Cell* live = table.At(label, fraction);
  return live ? live : table.At(label, fraction, "replay");
}

bool HasColumn(const StudyTable& table, std::string_view column) {
  return std::any_of(table.data.cells.begin(), table.data.cells.end(),
                     [&](const Cell& cell) { return cell.Mean(column).has_value(); });
}

std::string BytesMean(const Cell* cell, std::string_view column) {
  const auto mean = cell ? cell->Mean(column) : std::nullopt;
  return mean ? BytesText(*mean) : "–";
}

struct AblationTable {
  const StudyTable& table;
  std::string base;
  bool has_speed, has_metadata, has_peak, has_loss;

  AblationTable(const StudyTable& all, std::string base_label)
      : table(all),
        base(std::move(base_label)),
        has_speed(HasColumn(all, "tokens_per_s")),
        has_metadata(HasColumn(all, "metadata_bytes")),
        has_peak(HasColumn(all, "prefill_bytes_peak")),
        has_loss(HasColumn(all, "attention_loss")) {}

  void Columns(std::vector<std::string>& groups, std::vector<int>& spans,
               std::vector<ReportPage::Column>& columns) const {
    groups = {""};
    spans = {2};
    columns = {{"factor", "", true}, {"level", "", true}};
    for (const double fraction : table.fractions) {
      groups.push_back(FractionText(fraction));
      spans.push_back(4 + has_loss);
      columns.push_back({"right", "right answers of those tried"});
      columns.push_back({"prefix", "right leading digits in the free answer"});
      columns.push_back({"NLL", "answer NLL, nats per token"});
      columns.push_back({"difference", "of the answer NLL from the method's on the same prompts, 95 % interval"});
      if (has_loss) columns.push_back({"attention loss", "replay: share of the full cache's attention dropped"});
    }
    groups.push_back("cost");
    spans.push_back(has_speed + has_metadata + has_peak);
    if (has_speed) columns.push_back({"tokens/s", "decoding speed, mean over sizes"});
    if (has_metadata)
      columns.push_back({"metadata", "position ids; relevance and scales are in the cache's own bytes"});
    if (has_peak) columns.push_back({"prefill peak", "largest cache before the decision"});
  }

  ReportPage::TableRow Row(const LabeledVariant& one, const std::string& factor) const {
    ReportPage::TableRow row;
    row.cells = {factor, one.variant.level};
    row.quiet = one.variant.is_other;
    const Cell* any = nullptr;
    for (const double fraction : table.fractions) {
      const Cell* cell = table.At(one.label, fraction);
      if (!cell && one.label == table.LabelOf("full")) cell = table.Fixed(one.label);
      if (!any) any = AnyMode(table, one.label, fraction);
      const auto pairs = PairedValues(cell, table.At(base, fraction), "answer_nll");
      const auto difference = one.variant.is_base ? std::nullopt : DifferenceEstimate(pairs);
      row.cells.push_back(CountOf(cell));
      row.cells.push_back(MeanText(cell, "answer_prefix", 2));
      row.cells.push_back(MeanText(cell, "answer_nll"));
      row.cells.push_back(difference ? NatsText(*difference) : "–");
      row.strong.resize(row.cells.size(), one.variant.is_base);
      row.strong.back() = difference && difference->n >= kFewestPrompts && difference->high < 0;
      if (has_loss) row.cells.push_back(MeanText(table.At(one.label, fraction, "replay"), "attention_loss"));
    }
    if (has_speed) row.cells.push_back(MeanText(any, "tokens_per_s", 2));
    if (has_metadata) row.cells.push_back(BytesMean(any, "metadata_bytes"));
    if (has_peak) row.cells.push_back(BytesMean(any, "prefill_bytes_peak"));
    row.strong.resize(row.cells.size(), false);
    return row;
  }
};

void Table(ReportPage& page, const StudyTable& table, const std::vector<LabeledVariant>& variants,
           const std::string& base) {
  const AblationTable maker(table, base);
  std::vector<std::string> groups;
  std::vector<int> spans;
  std::vector<ReportPage::Column> columns;
  maker.Columns(groups, spans, columns);
  std::vector<ReportPage::TableRow> rows;
  std::string last = "none";
  for (const LabeledVariant& one : variants) {
    const bool is_new = one.variant.factor != last;
    last = one.variant.factor;
    rows.push_back(maker.Row(one, is_new ? one.variant.factor : ""));
    rows.back().starts_block = is_new;
  }
  page.Table(
      groups, spans, columns, rows,
      "Each line changes one thing. Difference: answer NLL minus that of the method as it is, mean over the same "
      "prompts with its 95 % interval; minus is better, and bold where the whole interval is. A dash: not "
      "measured, as for a variant that only replay can run.");
}

void SensitivityChart(ReportPage& page, const StudyContext& context, const StudyTable& table,
                      const std::vector<LabeledVariant>& variants, const std::string& base) {
  IntervalChartSpec spec;
  spec.x_label = "difference in answer NLL, nats";
  spec.unit = Unit::kPlain;
  spec.level = 0;
  double low = -0.1, high = 0.1;
  std::string last = "none";
  for (const double fraction : table.fractions) spec.panels.push_back(FractionText(fraction));
  for (const LabeledVariant& one : variants) {
    if (one.variant.is_base || one.variant.is_other) continue;
    IntervalChartSpec::Row row{one.variant.level, context.LookOf(base), {}};
    bool any = false;
    for (const double fraction : table.fractions) {
      const auto difference =
          DifferenceEstimate(PairedValues(table.At(one.label, fraction), table.At(base, fraction), "answer_nll"));
      row.marks.emplace_back();
      if (!difference) continue;
      any = true;
      row.marks.back() =
          IntervalChartSpec::Mark{difference->value, difference->low, difference->high, NatsText(*difference)};
      low = std::min(low, difference->low);
      high = std::max(high, difference->high);
    }
    if (!any) continue;
    if (one.variant.factor != last) spec.rows.push_back({one.variant.factor, {}, {}});
    last = one.variant.factor;
    spec.rows.push_back(std::move(row));
  }
  if (spec.rows.empty()) return;
  const Scale axis = NiceScale(low, high, false, Unit::kPlain);
  spec.low = axis.low;
  spec.high = axis.high;
  page.Figure("ablation_sensitivity", IntervalChart(spec),
              StrCat("Each variant minus ", base,
                     ": mean difference in answer NLL over the same prompts with its 95 % interval, by the factor that "
                     "was changed. Left of the black line the variant is better than what was proposed."));
}

}  // namespace

void WriteStudyAblation(ReportPage& page, const StudyContext& context) {
  if (!SayIfMissing(page, context.study, "ablation", context.ablation)) return;
  const StudyTable& table = context.ablation[0];
  const auto variants = Variants(table, context.method());
  const auto base = std::find_if(variants.begin(), variants.end(), [](const auto& one) { return one.variant.is_base; });
  if (base == variants.end()) {
    page.Paragraph(StrCat("The ablation arm has no rows of ", context.method(),
                          " itself: nothing can be compared with it, and only figures are shown."));
  }
  const std::string base_label = base == variants.end() ? "" : base->label;
  if (!base_label.empty()) SensitivityChart(page, context, table, variants, base_label);
  Table(page, table, variants, base_label);
  WriteHalfLifePath(page, context, table);
}

}  // namespace kvscope
