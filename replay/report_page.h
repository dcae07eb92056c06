// SPDX-License-Identifier: Apache-2.0
// The page while it is being written: sections with a table of contents, paragraphs, tables and figures.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "replay/svg.h"

namespace kvscope {

class ReportPage {
 public:
  // Pictures go to `folder` as they are added; an empty folder writes none.
  ReportPage(std::string title, std::string picture_folder);

  void BeginSection(const std::string& title, const std::string& id);
  void Subheading(const std::string& title);
  void Paragraph(const std::string& text);  // plain text, escaped
  void List(const std::vector<std::string>& items);
  void Code(const std::vector<std::string>& lines);
  void RawHtml(const std::string& html);
  // slug: file name of the PNG without folder and ending, unique. caption: one or two plain sentences.
  void Figure(const std::string& slug, const Svg& svg, const std::string& caption);
  // Figures added between the two stand beside each other where the page is wide enough.
  void BeginRow();
  void EndRow();

  struct Column {
    std::string name, help = {};
    bool left = false;
  };
  struct TableRow {
    std::vector<std::string> cells;
    std::vector<bool> strong;   // empty: none
    bool starts_block = false;  // a rule above
    bool quiet = false;         // references, in softer ink
  };
  void Table(const std::vector<std::string>& groups, const std::vector<int>& group_spans,
             const std::vector<Column>& columns, const std::vector<TableRow>& rows, const std::string& caption);

  std::string Html(const std::string& subtitle) const;
  const std::vector<std::string>& pictures() const { return pictures_; }
  const std::vector<std::pair<std::string, Svg>>& figures() const { return figures_; }  // slug, picture

 private:
  std::string title_, folder_, body_;
  std::vector<std::pair<std::string, std::string>> contents_;  // id, title
  std::vector<std::string> pictures_;
  std::vector<std::pair<std::string, Svg>> figures_;
  bool in_section_ = false;
};

}  // namespace kvscope
