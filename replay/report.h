// SPDX-License-Identifier: Apache-2.0
// One page that says which policy lost what, and where: self-contained HTML with its pictures inside, and each picture
// as a PNG beside it. Every sentence with a figure in it is made from the data.
#pragma once

#include <string>
#include <vector>

#include "core/results.h"

namespace kvscope {

struct ReportOptions {
  std::string path = "report.html";
  std::string title = "KV cache policies, replayed and live";
  std::string pictures;  // folder for the PNGs; empty: beside the page, "report_pictures"
  bool write_png = true;
  std::vector<std::string> commands;  // shown after those found in the results
};

// Replay and live results in any number and order. Throws Error; the page appears only when complete. Returns the
// paths of the pictures.
std::vector<std::string> WriteReport(const std::vector<Results>& inputs, const ReportOptions& options);

// The file appears only when complete. Throws Error.
void WriteWholeFile(const std::string& path, const std::string& text);

}  // namespace kvscope
