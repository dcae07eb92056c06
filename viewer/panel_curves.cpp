// SPDX-License-Identifier: Apache-2.0
// What a byte buys: quality against kept bytes, a line a policy, from results or measured on the trace. A click on a
// point makes it the plan that all panels follow. Below it, whether relevance knows the needle at all.
#include <imgui.h>
#include <implot.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "core/units.h"
#include "viewer/panel_parts.h"
#include "viewer/panels.h"
#include "viewer/theme.h"

namespace kvscope {
namespace {

constexpr float kReach = 14;     // pixels of a unit's size, from the mouse to the point that answers
constexpr double kLogFrom = 12;  // a plain figure that spans more than this is drawn over powers of ten

ImPlotMarker MarkerOf(Marker marker) {
  switch (marker) {
    case Marker::kCircle:
      return ImPlotMarker_Circle;
    case Marker::kSquare:
      return ImPlotMarker_Square;
    case Marker::kTriangle:
      return ImPlotMarker_Up;
    case Marker::kTriangleDown:
      return ImPlotMarker_Down;
    case Marker::kDiamond:
      return ImPlotMarker_Diamond;
    case Marker::kBowtie:
      return ImPlotMarker_Left;
    case Marker::kPlus:
      return ImPlotMarker_Plus;
    case Marker::kCross:
      return ImPlotMarker_Cross;
    case Marker::kStar:
      return ImPlotMarker_Asterisk;
  }
  return ImPlotMarker_Circle;
}

// The report's hues in the theme's order; greys by their place between ink and paper.
ImVec4 ColorOf(const PolicyLook& look) {
  const Palette& palette = CurrentTheme().palette;
  const uint32_t rgb = static_cast<uint32_t>(std::strtoul(look.color.c_str() + 1, nullptr, 16));
  if (look.reference)
    return ImGui::ColorConvertU32ToFloat4(Lightness(rgb) < 0.4 ? palette.soft_ink : palette.faint_ink);
  const auto hue = std::ranges::find(kPolicyHues, look.color);
  return ImGui::ColorConvertU32ToFloat4(palette.series[(hue - kPolicyHues.begin()) % palette.series.size()]);
}

// Ticks at 1, 2 and 5 times powers of ten, from bytes to their text.
struct ByteTicks {
  std::vector<double> places;
  std::vector<std::string> texts;
};
ByteTicks TicksBetween(double low, double high) {
  ByteTicks ticks;
  for (double power = std::pow(10, std::floor(std::log10(low))); power <= high && power < 1e18; power *= 10) {
    for (const double step : {1.0, 2.0, 5.0}) {
      if (power * step < low || power * step > high) continue;
      ticks.places.push_back(power * step);
      ticks.texts.push_back(FormatBytes(static_cast<int64_t>(power * step)));
    }
  }
  return ticks;
}

struct Extent {
  double low = INFINITY, high = -INFINITY;
  void See(double value) { low = std::min(low, value), high = std::max(high, value); }
};

std::vector<double> SharesOf(const std::vector<double>& counts) {
  const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
  std::vector<double> shares;
  for (const double count : counts) shares.push_back(total > 0 ? count / total : 0);
  return shares;
}

std::string FigureText(const CurveMetric& metric, const Pooled& pooled) {
  const auto text = [&](double value) {
    char buffer[64];
    std::snprintf(buffer, sizeof buffer, metric.is_share ? "%.1f %%" : "%.3g", metric.is_share ? 100 * value : value);
    return std::string(buffer);
  };
  return text(pooled.mean) + (pooled.rows > 1 ? " ± " + text(pooled.standard_error) : "");
}

std::string BudgetText(const Cell& cell) {
  return cell.budget.label.empty() ? "own size" : "keeps " + cell.budget.label;
}

}  // namespace

const ReportData* CurvesPanel::Group() const {
  if (!shown_ || shown_->groups.empty()) return nullptr;
  return &shown_->groups[static_cast<size_t>(std::clamp(group_, 0, static_cast<int>(shown_->groups.size()) - 1))];
}

std::string CurvesPanel::Csv(PanelContext&) const {
  return curves_.empty() ? "" : CurvesCsv(*Group(), metric_);
}

// What is shown of the data, kept until other data, another group or another metric is chosen.
void CurvesPanel::Refresh(const std::string& column) {
  const bool is_other_group = shown_ != model_.data() || shown_group_ != group_;
  if (is_other_group) {
    shown_ = model_.data();
    shown_group_ = group_;
    metrics_ = Group() ? MetricsOf(*Group()) : std::vector<CurveMetric>();
    histogram_ = Group() ? SumRelevance(Group()->traces) : std::nullopt;
  }
  if (!is_other_group && shown_column_ == column) return;
  shown_column_ = column;
  curves_.clear();
  if (metrics_.empty()) return;
  const auto chosen = std::ranges::find(metrics_, column, &CurveMetric::column);
  metric_ = chosen == metrics_.end() ? metrics_[0] : *chosen;
  curves_ = CurvesOf(*Group(), metric_);
  fits_ = false;
}

bool CurvesPanel::HasMode(std::string_view mode) const {
  return std::ranges::any_of(curves_, [&](const Curve& curve) { return curve.mode == mode; });
}

void CurvesPanel::Draw(PanelContext& context) {
  const bool has_trace = context.document && context.document->state() == TraceDocument::State::kReady;
  model_.Update(context.ReadyResults(), has_trace ? context.document : nullptr, context.jobs);
  Refresh(context.view.curve_column);
  if (curves_.empty()) return DrawNothing(context);
  DrawControls(context);
  Refresh(context.view.curve_column);
  if (curves_.empty()) return;
  const float height = ImGui::GetContentRegionAvail().y;
  DrawCurves(context, histogram_ ? std::floor(height * 0.64f) : height);
  if (histogram_) DrawRelevance();
}

// Why there is no curve, and what can be done about it.
void CurvesPanel::DrawNothing(PanelContext& context) {
  const bool has_trace = context.document && context.document->state() == TraceDocument::State::kReady;
  if (model_.measuring()) return DrawMeasuring(context);
  if (context.IsLoadingResults() || context.is_opening || model_.is_joining())
    return CentredText("Reading results ...");
  for (const auto& document : context.results) {
    if (!document->failure().empty()) return CentredText(document->failure().c_str());
  }
  std::string text =
      "No results are open, so there is no curve: drop a file of kvscope replay here, or measure a trace.";
  if (!model_.failure().empty()) text = model_.failure();
  if (Group() && !Group()->refusals.empty())
    text = "Nothing could be measured: " + Group()->refusals[0].reason;
  else if (shown_)
    text = "These results hold no figure and no size that a curve could show.";
  if (!has_trace) return CentredText(text.c_str());
  const float em = ImGui::GetFontSize(), width = ImGui::GetContentRegionAvail().x;
  const float wrap = std::min(width * 0.9f, em * 34);
  ImGui::SetCursorPosY(ImGui::GetCursorPosY() + std::max(0.0f, ImGui::GetContentRegionAvail().y * 0.4f - em * 3));
  const float left = ImGui::GetCursorPosX() + (width - wrap) / 2;
  ImGui::SetCursorPosX(left);
  ImGui::PushTextWrapPos(left + wrap);
  ImGui::TextDisabled("%s", text.c_str());
  ImGui::Spacing();
  std::string specs;
  for (const PolicyChoice& choice : context.view.policies) specs += (specs.empty() ? "" : ", ") + choice.spec;
  ImGui::SetCursorPosX(left);
  if (ImGui::Button("Measure this trace")) model_.Measure(*context.document, context.view, context.jobs);
  ImGui::SetCursorPosX(left);
  ImGui::TextDisabled("replays %s beside full, random and the oracle at 0.5, 0.25, 0.1 and 0.05 of the bytes",
                      specs.c_str());
  ImGui::PopTextWrapPos();
}

void CurvesPanel::DrawMeasuring(PanelContext& context) {
  const float em = ImGui::GetFontSize(), width = std::min(ImGui::GetContentRegionAvail().x * 0.9f, em * 24);
  const float left = ImGui::GetCursorPosX() + (ImGui::GetContentRegionAvail().x - width) / 2;
  ImGui::SetCursorPos(
      {left, ImGui::GetCursorPosY() + std::max(0.0f, ImGui::GetContentRegionAvail().y * 0.4f - em * 2)});
  const auto fraction = static_cast<float>(model_.measuring().value_or(0));
  ImGui::ProgressBar(fraction, {width, 0}, StrCat("replaying, ", std::lround(100 * fraction), " %").c_str());
  ImGui::SetCursorPosX(left);
  if (ImGui::Button("Cancel")) model_.CancelMeasuring(context.jobs);
}

void CurvesPanel::DrawControls(PanelContext& context) {
  const float em = ImGui::GetFontSize();
  ImGui::SetNextItemWidth(em * 20);
  if (ImGui::BeginCombo("##metric", metric_.title)) {
    for (const CurveMetric& metric : metrics_) {
      if (ImGui::Selectable(metric.title, std::string_view(metric.column) == metric_.column))
        context.view.curve_column = metric.column;
    }
    ImGui::EndCombo();
  }
  if (shown_->groups.size() > 1) {
    const auto name = [](const ReportData& group) { return Escape(group.model + ", " + group.task); };
    ImGui::SameLine();
    ImGui::SetNextItemWidth(em * 18);
    if (ImGui::BeginCombo("##group", name(*Group()).c_str())) {
      for (int i = 0; i < static_cast<int>(shown_->groups.size()); ++i) {
        if (ImGui::Selectable(StrCat(name(shown_->groups[i]), "##", i).c_str(), i == group_)) group_ = i;
      }
      ImGui::EndCombo();
    }
  }
  ImGui::SameLine();
  if (HasMode("replay") && HasMode("live")) {
    ImGui::TextDisabled("filled: live, open: replay");
  } else {
    ImGui::TextDisabled(HasMode("live") ? "live" : model_.is_measured() ? "replay, measured here" : "replay");
  }
  if (!model_.is_measured() || !context.document) return;
  ImGui::SameLine();
  if (model_.measuring()) {
    ImGui::TextDisabled("again, %.0f %%", 100 * *model_.measuring());
    ImGui::SameLine();
    if (ImGui::SmallButton("cancel")) model_.CancelMeasuring(context.jobs);
  } else if (ImGui::SmallButton("measure again")) {
    model_.Measure(*context.document, context.view, context.jobs);
  }
}

void CurvesPanel::DrawCurves(PanelContext& context, float height) {
  const CurveMetric& metric = metric_;
  Extent bytes, values, positive;
  for (const Curve& curve : curves_) {
    for (const CurvePoint& point : curve.points) {
      bytes.See(point.bytes);
      values.See(point.value);
      if (point.value > 0) positive.See(point.value);
    }
  }
  const bool is_log = !metric.is_share && values.low >= 0 && positive.high > kLogFrom * positive.low;
  if (!ImPlot::BeginPlot("##curves", {-1, height}, ImPlotFlags_NoTitle | ImPlotFlags_NoMouseText)) return;
  ImPlot::SetupLegend(ImPlotLocation_East, ImPlotLegendFlags_Outside);
  ImPlot::SetupAxes("bytes of the cache held or read, fewer to the right", metric.title, ImPlotAxisFlags_Invert, 0);
  ImPlot::SetupAxisScale(ImAxis_X1, ImPlotScale_Log10);
  const double low = bytes.low / 1.25, high = bytes.high * 1.25;
  const ByteTicks ticks = TicksBetween(low, high);
  std::vector<const char*> texts;
  for (const std::string& text : ticks.texts) texts.push_back(text.c_str());
  if (!texts.empty())
    ImPlot::SetupAxisTicks(ImAxis_X1, ticks.places.data(), static_cast<int>(texts.size()), texts.data());
  // A figure of its own starts with a view of its own.
  double y_low = metric.is_share ? -0.03 : 0, y_high = metric.is_share ? 1.03 : values.high * 1.06;
  if (is_log) {
    ImPlot::SetupAxisScale(ImAxis_Y1, ImPlotScale_Log10);
    y_low = positive.low / 1.4, y_high = positive.high * 1.4;
  }
  if (!(y_high > y_low)) y_high = y_low + 1;
  ImPlot::SetupAxesLimits(low, high, y_low, y_high, fits_ ? ImPlotCond_Once : ImPlotCond_Always);
  fits_ = true;
  ImPlot::SetupFinish();

  const float scale = ImGui::GetFontSize() / 15;
  const bool has_both = HasMode("replay") && HasMode("live");
  for (const Curve& curve : curves_) {
    std::vector<PixelPoint> pixels;
    std::vector<double> xs, ys, line_xs, line_ys;
    for (const CurvePoint& point : curve.points) {
      if (is_log && point.value <= 0) continue;
      xs.push_back(point.bytes), ys.push_back(point.value);
      const ImVec2 pixel = ImPlot::PlotToPixels(point.bytes, point.value);
      pixels.push_back({pixel.x, pixel.y});
    }
    for (const PixelPoint& end : DashesOf(pixels, curve.look.dash, scale)) {
      const ImPlotPoint at = ImPlot::PixelsToPlot(end.x, end.y);
      line_xs.push_back(at.x), line_ys.push_back(at.y);
    }
    ImPlotSpec spec;
    spec.LineColor = ColorOf(curve.look);
    if (curve.look.reference) spec.LineColor.w = 0.85f;
    spec.LineWeight = (curve.look.reference ? 1.2f : 2.0f) * scale;
    spec.Flags = ImPlotLineFlags_Segments;
    const std::string label = Escape(curve.label);
    if (!line_xs.empty())
      ImPlot::PlotLine(label.c_str(), line_xs.data(), line_ys.data(), static_cast<int>(line_xs.size()), spec);
    spec.Flags = 0;
    spec.Marker = MarkerOf(curve.look.marker);
    spec.MarkerSize = (curve.look.reference ? 4.0f : 4.8f) * scale;
    spec.LineWeight = 1.6f * scale;
    spec.MarkerLineColor = spec.LineColor;
    const bool is_filled = has_both ? curve.mode == "live" : curve.look.filled;
    spec.MarkerFillColor = is_filled ? spec.LineColor : ImGui::ColorConvertU32ToFloat4(CurrentTheme().palette.surface);
    ImPlot::PlotScatter(label.c_str(), xs.data(), ys.data(), static_cast<int>(xs.size()), spec);
  }
  DrawHover(context);
  ImPlot::EndPlot();
}

// Rings around the chosen plan and the point under the mouse, which a click chooses.
void CurvesPanel::DrawHover(PanelContext& context) {
  const float scale = ImGui::GetFontSize() / 15;
  const ImVec2 mouse = ImGui::GetMousePos();
  const Curve* hovered_curve = nullptr;
  const CurvePoint* hovered = nullptr;
  float nearest = kReach * scale;
  ImDrawList* const draw = ImPlot::GetPlotDrawList();
  const Palette& palette = CurrentTheme().palette;
  const PolicyChoice* const chosen =
      context.view.policy_index >= 0 && context.view.policy_index < static_cast<int>(context.view.policies.size())
          ? &context.view.policies[context.view.policy_index]
          : nullptr;
  ImPlot::PushPlotClipRect();
  for (const Curve& curve : curves_) {
    for (const CurvePoint& point : curve.points) {
      const ImVec2 at = ImPlot::PlotToPixels(point.bytes, point.value);
      if (chosen && ChoiceOf(*point.cell, context.view) == *chosen && point.cell->policy == chosen->spec)
        draw->AddCircle(at, 9 * scale, palette.accent, 0, 2 * scale);
      const float distance = std::hypot(at.x - mouse.x, at.y - mouse.y);
      if (distance >= nearest) continue;
      nearest = distance, hovered_curve = &curve, hovered = &point;
    }
  }
  if (!hovered || !ImPlot::IsPlotHovered()) return ImPlot::PopPlotClipRect();
  draw->AddCircle(ImPlot::PlotToPixels(hovered->bytes, hovered->value), 9 * scale, palette.ink, 0, 1.5f * scale);
  ImPlot::PopPlotClipRect();
  const Cell& cell = *hovered->cell;
  ImGui::BeginTooltip();
  ImGui::PushFont(CurrentTheme().bold, 0);
  ImGui::TextUnformatted(Escape(hovered_curve->label).c_str());
  ImGui::PopFont();
  ImGui::TextDisabled("%s, %s, %zu %s", hovered_curve->mode.c_str(), BudgetText(cell).c_str(), cell.rows.size(),
                      cell.rows.size() == 1 ? "run" : "runs");
  const auto kept = cell.Mean("kept_fraction");
  ImGui::Text("%s%s", FormatBytes(static_cast<int64_t>(std::min(hovered->bytes, 9e18))).c_str(),
              kept ? (", " + FormatFraction(*kept) + " of the bytes").c_str() : "");
  for (const CurveMetric& metric : metrics_) {
    auto pooled = cell.Pool(metric.column);
    if (!pooled) continue;
    ImGui::Text("%s  %s", metric.title, FigureText(metric, *pooled).c_str());
  }
  ImGui::TextDisabled("click: all panels follow this plan");
  ImGui::EndTooltip();
  if (!WasClicked()) return;
  ChoosePolicy(ChoiceOf(cell, context.view), context.view);
  std::vector<std::string> folders;
  for (const auto& document : context.results)
    folders.push_back(std::filesystem::path(document->path()).parent_path().string());
  const std::string current = context.document ? context.document->path() : "";
  const std::string trace = TraceOf(cell, current, folders);
  if (!trace.empty() && trace != current && context.open) context.open(trace);
}

// Each as a share of its own, as there are many more other tokens than needle tokens.
void CurvesPanel::DrawRelevance() {
  const RelevanceHistogram& histogram = *histogram_;
  const Palette& palette = CurrentTheme().palette;
  const size_t num_bins = histogram.needle.size();
  const std::vector<double> needle = SharesOf(histogram.needle), rest = SharesOf(histogram.rest);
  const double highest = std::max(*std::ranges::max_element(needle), *std::ranges::max_element(rest));
  std::vector<double> xs;
  for (size_t bin = 0; bin < num_bins; ++bin)
    xs.push_back(histogram.low + (static_cast<double>(bin) + 0.5) * histogram.bin_width);
  const std::string label = "log10 of the " + Escape(histogram.statistic);
  if (!ImPlot::BeginPlot("##relevance", {-1, -1}, ImPlotFlags_NoTitle | ImPlotFlags_NoMouseText)) return;
  ImPlot::SetupLegend(ImPlotLocation_NorthEast);
  ImPlot::SetupAxes(label.c_str(), "share of these tokens");
  ImPlot::SetupAxesLimits(histogram.low, histogram.low + static_cast<double>(num_bins) * histogram.bin_width, 0,
                          std::max(highest * 1.08, 1e-9));
  const auto draw = [&](const char* name, const std::vector<double>& shares, uint32_t color) {
    ImPlotSpec spec;
    spec.FillColor = ImGui::ColorConvertU32ToFloat4(color);
    spec.LineColor = {0, 0, 0, 0};
    spec.FillAlpha = 0.6f;
    ImPlot::PlotBars(name, xs.data(), shares.data(), static_cast<int>(num_bins), histogram.bin_width, spec);
  };
  draw("other tokens", rest, palette.faint_ink);
  draw("needle tokens", needle, palette.needle);
  ImPlot::EndPlot();
}

}  // namespace kvscope
