// SPDX-License-Identifier: Apache-2.0
#include "replay/report.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "replay/chart_axis.h"
#include "replay/fidelity.h"
#include "replay/report_data.h"
#include "replay/report_page.h"
#include "replay/report_sections.h"

namespace kvscope {
namespace {

std::string PicturesFolder(const ReportOptions& options) {
  if (!options.write_png) return "";
  if (!options.pictures.empty()) return options.pictures;
  const std::filesystem::path page(options.path);
  return (page.parent_path() / (page.stem().string() + "_pictures")).string();
}

std::string Range(const std::vector<double>& values, const std::string& unit) {
  std::vector<std::string> texts;
  for (const double value : values) texts.push_back(CountText(value));
  if (texts.size() > 6) return StrCat(texts.front(), " to ", texts.back(), unit);
  return Listed(texts) + unit;
}

std::string Subtitle(const ReportData& data) {
  std::vector<std::string> parts;
  parts.push_back(data.model.empty() ? "unknown model" : data.model);
  if (!data.task.empty()) parts.push_back("task " + data.task);
  if (!data.contexts.empty()) parts.push_back(Range(data.contexts, " tokens"));
  if (!data.depths.empty()) parts.push_back(StrCat(data.depths.size(), data.depths.size() == 1 ? " depth" : " depths"));
  parts.push_back(StrCat(data.policies.size(), data.policies.size() == 1 ? " policy" : " policies"));
  std::vector<std::string> budgets;
  for (const Budget& budget : data.budgets) {
    if (!budget.label.empty()) budgets.push_back(budget.label);
  }
  if (!budgets.empty()) parts.push_back("keep " + Listed(budgets));
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : " · ") + part;
  return text;
}

}  // namespace

void WriteWholeFile(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".part";
  std::ofstream out(temporary, std::ios::binary);
  out << text;
  out.close();
  std::error_code failure;
  if (out) std::filesystem::rename(temporary, path, failure);
  if (!out || failure) {
    std::remove(temporary.c_str());
    throw Error(StrCat(path, ": the page cannot be written; check that the folder exists, is writable and has space"));
  }
}

std::vector<const Results::Row*> RowsOfMode(const ReportData& data, std::string_view mode) {
  std::vector<const Results::Row*> rows;
  for (const Cell& cell : data.cells) {
    if (cell.mode == mode) rows.insert(rows.end(), cell.rows.begin(), cell.rows.end());
  }
  return rows;
}

void WriteSections(ReportPage& page, const std::vector<ReportData>& groups, const std::vector<Fidelity>& fidelities) {
  const auto each = [&](const auto& write) {
    for (size_t i = 0; i < groups.size(); ++i) {
      if (groups.size() > 1) page.Subheading(StrCat(groups[i].model, ", ", groups[i].task));
      write(SectionContext{groups[i], groups.size() > 1 ? StrCat(i + 1, "_") : ""}, fidelities[i]);
    }
  };
  page.BeginSection("What these runs show", "findings");
  each([&](const SectionContext& context, const Fidelity& fidelity) {
    const auto sentences = Findings(context.data, fidelity);
    if (sentences.empty()) page.Paragraph("Too few policies with figures to compare.");
    page.List(sentences);
  });
  page.BeginSection("Every policy at every budget", "table");
  each([&](const SectionContext& context, const Fidelity&) { WriteHeadline(page, context); });
  page.BeginSection("Quality against memory", "quality");
  each([&](const SectionContext& context, const Fidelity&) { WriteQuality(page, context); });
  page.BeginSection("By length and depth", "grid");
  each([&](const SectionContext& context, const Fidelity&) { WriteGrids(page, context); });
  page.BeginSection("Where the needle was lost", "needle");
  each([&](const SectionContext& context, const Fidelity&) { WriteNeedle(page, context); });
  page.BeginSection("Does relevance know the needle?", "relevance");
  each([&](const SectionContext& context, const Fidelity&) { WriteRelevance(page, context); });
  page.BeginSection("What attention does", "attention");
  each([&](const SectionContext& context, const Fidelity&) { WriteDynamics(page, context); });
  page.BeginSection("Does replay predict live?", "fidelity");
  each([&](const SectionContext& context, const Fidelity& fidelity) { WriteFidelity(page, context, fidelity); });
}

std::vector<std::string> WriteReport(const std::vector<Results>& inputs, const ReportOptions& options) {
  const Results merged = MergeResults(inputs);
  if (merged.rows.empty())
    throw Error(StrCat(options.path, ": expected at least one result row, found none; run kvscope replay first"));
  const std::string folder = PicturesFolder(options);
  if (!folder.empty()) {
    std::error_code failure;
    std::filesystem::create_directories(folder, failure);
    if (failure) throw Error(StrCat(folder, ": the folder for pictures cannot be made: ", failure.message()));
  }
  const std::vector<ReportData> groups = GatherReportData(merged);
  std::vector<Fidelity> fidelities;
  for (const ReportData& data : groups) {
    fidelities.push_back(CompareFidelity(RowsOfMode(data, "replay"), RowsOfMode(data, "live")));
  }

  ReportPage page(options.title, folder);
  WriteSections(page, groups, fidelities);
  std::vector<std::string> commands = merged.commands;
  commands.insert(commands.end(), options.commands.begin(), options.commands.end());
  page.BeginSection("To repeat this", "repeat");
  if (commands.empty())
    page.Paragraph("The result files do not say how they were made.");
  else
    page.Code(commands);
  page.Paragraph(
      "Attention loss: share of the full cache's attention on dropped entries. Answer NLL: negative log-likelihood per "
      "token of the right "
      "answer, teacher-forced. KL: divergence of the next-token distribution from the full cache's. A figure that was "
      "not measured shows "
      "as a dash, never as 0.");
  std::vector<std::string> subtitles;
  for (const ReportData& data : groups) subtitles.push_back(Subtitle(data));
  std::string subtitle;
  for (const std::string& text : subtitles) subtitle += (subtitle.empty() ? "" : "; ") + text;
  WriteWholeFile(options.path, page.Html(subtitle));
  return page.pictures();
}

}  // namespace kvscope
