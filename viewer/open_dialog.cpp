// SPDX-License-Identifier: Apache-2.0
#include "viewer/open_dialog.h"

#include <imgui.h>
#include <misc/cpp/imgui_stdlib.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "core/error.h"
#include "core/units.h"
#include "viewer/recent_files.h"

namespace kvscope {
namespace {

namespace fs = std::filesystem;

bool IsFolder(const std::string& path) {
  std::error_code failure;
  return fs::is_directory(path, failure);
}

}  // namespace

void OpenDialog::Open(const std::string& folder) {
  wants_open_ = true;
  GoTo(!folder.empty() ? folder : folder_.empty() ? "." : folder_);
}

void OpenDialog::GoTo(const std::string& folder) {
  fs::path path = AbsolutePath(folder);
  if (!path.has_filename() && path.has_relative_path()) path = path.parent_path();  // "a/" is "a"
  folder_ = typed_ = path.string();
  listing_ = ListFolder(folder_);
  failure_ = listing_.failure;
  selected_.clear();
}

std::vector<std::string> OpenDialog::Accept() {
  const std::string typed = AbsolutePath((fs::path(folder_) / typed_).string());
  std::error_code ignored;
  if (typed_ != folder_ && IsFolder(typed)) return GoTo(typed), std::vector<std::string>();
  if (typed_ != folder_ && fs::is_regular_file(typed, ignored)) return {typed};
  if (typed_ != folder_) {
    failure_ = StrCat(typed_, ": expected a folder or a trace, found neither; check the spelling");
    return {};
  }
  std::vector<std::string> folders, files;
  for (const FolderEntry& entry : listing_.entries) {
    if (selected_.contains(entry.name))
      (entry.is_folder ? folders : files).push_back((fs::path(folder_) / entry.name).string());
  }
  if (files.empty() && folders.size() == 1) GoTo(folders[0]);
  return files;
}

void OpenDialog::DrawEntries(bool& accepts) {
  ImGui::TableSetupScrollFreeze(0, 1);
  ImGui::TableSetupColumn("name", ImGuiTableColumnFlags_WidthStretch);
  ImGui::TableSetupColumn("size", ImGuiTableColumnFlags_WidthFixed, ImGui::GetFontSize() * 6);
  ImGui::TableSetupColumn("changed", ImGuiTableColumnFlags_WidthFixed, ImGui::GetFontSize() * 10);
  ImGui::TableHeadersRow();
  for (const FolderEntry& entry : listing_.entries) {
    ImGui::TableNextRow();
    ImGui::TableNextColumn();
    const std::string label = Escape(entry.name) + (entry.is_folder ? "/" : "") + "###" + entry.name;
    const bool is_selected = selected_.contains(entry.name);
    if (ImGui::Selectable(label.c_str(), is_selected,
                          ImGuiSelectableFlags_SpanAllColumns | ImGuiSelectableFlags_AllowDoubleClick)) {
      typed_ = folder_;
      if (!ImGui::GetIO().KeyCtrl) selected_.clear();
      if (ImGui::GetIO().KeyCtrl && is_selected) {
        selected_.erase(entry.name);
      } else {
        selected_.insert(entry.name);
      }
      if (ImGui::IsMouseDoubleClicked(ImGuiMouseButton_Left)) accepts = true;
    }
    ImGui::TableNextColumn();
    if (!entry.is_folder) ImGui::TextDisabled("%s", FormatBytes(entry.size_bytes).c_str());
    ImGui::TableNextColumn();
    ImGui::TextDisabled("%s", entry.changed.c_str());
  }
}

std::vector<std::string> OpenDialog::Draw() {
  constexpr const char* kName = "Open traces";
  if (std::exchange(wants_open_, false)) ImGui::OpenPopup(kName);
  const ImGuiViewport* const viewport = ImGui::GetMainViewport();
  const float em = ImGui::GetFontSize();
  ImGui::SetNextWindowPos(viewport->GetCenter(), ImGuiCond_Always, {0.5f, 0.5f});
  ImGui::SetNextWindowSize(
      {std::min(viewport->WorkSize.x * 0.94f, em * 48), std::min(viewport->WorkSize.y * 0.9f, em * 32)});
  bool stays = true;
  if (!ImGui::BeginPopupModal(kName, &stays,
                              ImGuiWindowFlags_NoSavedSettings | ImGuiWindowFlags_NoResize | ImGuiWindowFlags_NoMove))
    return {};
  bool accepts = false;
  if (ImGui::Button("Up")) GoTo(fs::path(folder_).parent_path().string());
  ImGui::SameLine();
  ImGui::SetNextItemWidth(-1);
  if (ImGui::InputText("##folder", &typed_, ImGuiInputTextFlags_EnterReturnsTrue)) accepts = true;
  const float footer = ImGui::GetFrameHeightWithSpacing() + ImGui::GetTextLineHeightWithSpacing();
  if (ImGui::BeginTable("entries", 3, ImGuiTableFlags_ScrollY | ImGuiTableFlags_RowBg, {0, -footer})) {
    DrawEntries(accepts);
    ImGui::EndTable();
  }
  if (!failure_.empty()) {
    ImGui::TextUnformatted(failure_.c_str());
  } else if (listing_.entries.empty()) {
    ImGui::TextDisabled("Nothing here that ends with .h5.");
  } else {
    ImGui::TextDisabled("Ctrl+click chooses several.");
  }
  ImGui::BeginDisabled(selected_.empty() && typed_ == folder_);
  if (ImGui::Button("Open", {em * 6, 0})) accepts = true;
  ImGui::EndDisabled();
  ImGui::SameLine();
  if (ImGui::Button("Cancel", {em * 6, 0}) || ImGui::IsKeyPressed(ImGuiKey_Escape, false)) stays = false;
  if (ImGui::IsKeyPressed(ImGuiKey_Enter, false) && !selected_.empty()) accepts = true;
  std::vector<std::string> files;
  if (accepts) files = Accept();
  if (!files.empty() || !stays) ImGui::CloseCurrentPopup();
  ImGui::EndPopup();
  return files;
}

}  // namespace kvscope
