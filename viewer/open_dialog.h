// SPDX-License-Identifier: Apache-2.0
// Which traces to open: a folder is typed or walked through, files are clicked.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "viewer/folder_listing.h"

namespace kvscope {

class OpenDialog {
 public:
  // Shows it from the next Draw on. Empty: the folder it showed last, at first the current one.
  void Open(const std::string& folder = "");
  // Draws it while it is open. The files that were chosen, in the frame in which they were.
  std::vector<std::string> Draw();

 private:
  void GoTo(const std::string& folder);
  // What Enter or the button does with what is typed and selected.
  std::vector<std::string> Accept();
  void DrawEntries(bool& accepts);

  bool wants_open_ = false;
  std::string folder_, typed_, failure_;
  FolderListing listing_;
  std::set<std::string> selected_;  // names
};

}  // namespace kvscope
