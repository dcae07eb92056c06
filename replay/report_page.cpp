// SPDX-License-Identifier: Apache-2.0
#include "replay/report_page.h"

#include "core/error.h"
#include "replay/png.h"

namespace kvscope {
namespace {

// Dark ink on paper, one serif column, figures as wide as they need. No script, nothing fetched from elsewhere.
constexpr std::string_view kStyle = R"css(
:root { --ink: #222; --soft: #6b6b6b; --hair: #d9d6ce; --paper: #fffefb; }
html { background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%; }
body { font: 17px/1.5 Palatino, "Palatino Linotype", "Book Antiqua", Georgia, "DejaVu Serif", serif;
  max-width: 64rem; margin: 3rem auto; padding: 0 1.4rem; }
h1 { font-size: 2rem; font-weight: 400; line-height: 1.15; margin: 0 0 .3rem; }
h2 { font-size: 1.4rem; font-weight: 400; font-style: italic; margin: 3.2rem 0 .6rem; padding-top: .7rem;
  border-top: 1px solid var(--hair); }
h3 { font-size: 1.05rem; font-weight: 600; margin: 1.8rem 0 .4rem; }
p, li { max-width: 44rem; }
p { margin: .5rem 0 .8rem; } li { margin: .25rem 0; }
.subtitle { color: var(--soft); font-style: italic; margin-bottom: 1.6rem; }
nav { font-size: .95rem; } nav ol { padding-left: 1.3rem; columns: 2; column-gap: 2.5rem; max-width: 44rem; }
a { color: inherit; text-decoration-color: #b5b0a4; text-underline-offset: 2px; }
figure { margin: 1.3rem 0 1.6rem; break-inside: avoid; }
figure svg { width: 100%; height: auto; display: block; }
figcaption, .caption { font-size: .88rem; color: var(--soft); max-width: 44rem; margin-top: .5rem; line-height: 1.42; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(27rem, 1fr)); gap: 0 2rem; }
.row figure { margin-bottom: 1rem; }
.scroll { overflow-x: auto; margin: 1rem 0 .4rem; }
table { border-collapse: collapse; font: 12.5px/1.3 "DejaVu Sans", Verdana, sans-serif; font-variant-numeric: tabular-nums; }
th { font-weight: 600; text-align: right; vertical-align: bottom; padding: .18rem .55rem; }
th.group { text-align: left; font-weight: 400; font-style: italic; color: var(--soft); border-bottom: 1px solid var(--hair); }
td { text-align: right; padding: .13rem .55rem; white-space: nowrap; }
th.left, td.left { text-align: left; } td:first-child, th:first-child { padding-left: 0; }
thead tr:last-child th { border-bottom: 1px solid var(--ink); }
tr.block td { border-top: 1px solid var(--hair); padding-top: .4rem; }
tr.quiet td { color: var(--soft); }
tbody tr:last-child td { border-bottom: 1px solid var(--ink); }
pre { font: 12.5px/1.45 "DejaVu Sans Mono", Consolas, monospace; background: #f6f4ee; padding: .8rem 1rem; overflow-x: auto;
  white-space: pre-wrap; word-break: break-word; }
@media (max-width: 40rem) { body { font-size: 16px; margin: 1.2rem auto; } nav ol { columns: 1; } .row { display: block; } }
@media print { html { background: #fff; } body { font-size: 10.5pt; margin: 0; max-width: none; padding: 0; }
  h2 { break-after: avoid; } nav { display: none; } .row { display: block; } .scroll { overflow: visible; }
  table { font-size: 7.5pt; } td, th { padding: .1rem .3rem; } a { text-decoration: none; } @page { margin: 16mm; } }
)css";

}  // namespace

ReportPage::ReportPage(std::string title, std::string picture_folder)
    : title_(std::move(title)), folder_(std::move(picture_folder)) {}

void ReportPage::BeginSection(const std::string& title, const std::string& id) {
  if (in_section_) body_ += "</section>\n";
  in_section_ = true;
  contents_.emplace_back(id, title);
  body_ += StrCat("<section id=\"", EscapeXml(id), "\">\n<h2>", EscapeXml(title), "</h2>\n");
}

void ReportPage::Subheading(const std::string& title) {
  body_ += "<h3>" + EscapeXml(title) + "</h3>\n";
}
void ReportPage::Paragraph(const std::string& text) {
  body_ += "<p>" + EscapeXml(text) + "</p>\n";
}
void ReportPage::RawHtml(const std::string& html) {
  body_ += html;
}
void ReportPage::BeginRow() {
  body_ += "<div class=\"row\">\n";
}
void ReportPage::EndRow() {
  body_ += "</div>\n";
}

void ReportPage::List(const std::vector<std::string>& items) {
  if (items.empty()) return;
  body_ += "<ul>\n";
  for (const std::string& item : items) body_ += "<li>" + EscapeXml(item) + "</li>\n";
  body_ += "</ul>\n";
}

void ReportPage::Code(const std::vector<std::string>& lines) {
  body_ += "<pre>";
  for (const std::string& line : lines) body_ += EscapeXml(line) + "\n";
  body_ += "</pre>\n";
}

void ReportPage::Figure(const std::string& slug, const Svg& svg, const std::string& caption) {
  if (!folder_.empty()) {
    const std::string path = folder_ + "/" + slug + ".png";
    WritePng(path, svg.Document());
    pictures_.push_back(path);
  }
  figures_.emplace_back(slug, svg);
  body_ += StrCat("<figure id=\"", EscapeXml(slug), "\">\n", svg.Inline(), "<figcaption>", EscapeXml(caption),
                  "</figcaption>\n</figure>\n");
}

void ReportPage::Table(const std::vector<std::string>& groups, const std::vector<int>& group_spans,
                       const std::vector<Column>& columns, const std::vector<TableRow>& rows,
                       const std::string& caption) {
  body_ += "<div class=\"scroll\"><table>\n<thead>\n";
  if (!groups.empty()) {
    body_ += "<tr>";
    for (size_t i = 0; i < groups.size(); ++i) {
      if (group_spans[i] == 0) continue;
      body_ += groups[i].empty()
                   ? StrCat("<td colspan=\"", group_spans[i], "\"></td>")
                   : StrCat("<th class=\"group\" colspan=\"", group_spans[i], "\">", EscapeXml(groups[i]), "</th>");
    }
    body_ += "</tr>\n";
  }
  body_ += "<tr>";
  for (const Column& column : columns) {
    body_ += StrCat("<th", column.left ? " class=\"left\"" : "",
                    column.help.empty() ? "" : " title=\"" + EscapeXml(column.help) + "\"", ">", EscapeXml(column.name),
                    "</th>");
  }
  body_ += "</tr>\n</thead>\n<tbody>\n";
  for (const TableRow& row : rows) {
    const char* names = row.starts_block ? (row.quiet ? " class=\"block quiet\"" : " class=\"block\"")
                                         : (row.quiet ? " class=\"quiet\"" : "");
    body_ += StrCat("<tr", names, ">");
    for (size_t i = 0; i < row.cells.size(); ++i) {
      const bool strong = i < row.strong.size() && row.strong[i];
      body_ += StrCat("<td", columns[i].left ? " class=\"left\">" : ">", strong ? "<b>" : "", EscapeXml(row.cells[i]),
                      strong ? "</b>" : "", "</td>");
    }
    body_ += "</tr>\n";
  }
  body_ += "</tbody></table></div>\n";
  if (!caption.empty()) body_ += "<p class=\"caption\">" + EscapeXml(caption) + "</p>\n";
}

std::string ReportPage::Html(const std::string& subtitle) const {
  std::string html = StrCat(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>",
      EscapeXml(title_), "</title>\n<style>", kStyle, "</style>\n</head>\n<body>\n<h1>", EscapeXml(title_),
      "</h1>\n<p class=\"subtitle\">", EscapeXml(subtitle), "</p>\n<nav><ol>\n");
  for (const auto& [id, title] : contents_) {
    html += StrCat("<li><a href=\"#", EscapeXml(id), "\">", EscapeXml(title), "</a></li>\n");
  }
  return html + "</ol></nav>\n" + body_ + (in_section_ ? "</section>\n" : "") + "</body>\n</html>\n";
}

}  // namespace kvscope
