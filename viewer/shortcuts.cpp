// SPDX-License-Identifier: Apache-2.0
#include "viewer/shortcuts.h"

#include <imgui.h>
#include <imgui_internal.h>

#include "viewer/theme.h"

namespace kvscope {
namespace {

struct Shortcut {
  Command command;
  const char* heading;
  const char* keys;  // as people read them
  const char* what;
  ImGuiKeyChord chords[2];
  // Where a character stands differs between keyboards, so it is looked for among those typed.
  char character = 0;
};

constexpr Shortcut kShortcuts[] = {
    {Command::kPreviousLayer, "Heads", "Up  or  [", "the layer before", {ImGuiKey_UpArrow}, '['},
    {Command::kNextLayer, "Heads", "Down  or  ]", "the next layer", {ImGuiKey_DownArrow}, ']'},
    {Command::kPreviousHead, "Heads", "K  or  ,", "the head before", {ImGuiKey_K}, ','},
    {Command::kNextHead, "Heads", "J  or  .", "the next head", {ImGuiKey_J}, '.'},
    {Command::kPreviousStep, "Steps", "Left", "the step before", {ImGuiKey_LeftArrow}},
    {Command::kNextStep, "Steps", "Right", "the next step", {ImGuiKey_RightArrow}},
    {Command::kPlay, "Steps", "Space", "play or pause", {ImGuiKey_Space}},
    {Command::kLogScale, "Heatmap", "L", "logarithmic or linear colours", {ImGuiKey_L}},
    {Command::kMaskSinks, "Heatmap", "S", "leave out the sinks, or not", {ImGuiKey_S}},
    {Command::kWholeHeatmap, "Heatmap", "Home", "all of it", {ImGuiKey_Home}},
    {Command::kSearch, "Text", "Ctrl+F", "search", {ImGuiMod_Ctrl | ImGuiKey_F}},
    {Command::kOpen, "Files", "Ctrl+O", "open", {ImGuiMod_Ctrl | ImGuiKey_O}},
    {Command::kSavePicture, "Files", "Ctrl+P", "save a picture of the panel", {ImGuiMod_Ctrl | ImGuiKey_P}},
    {Command::kSaveTable, "Files", "Ctrl+E", "save the panel's table (CSV)", {ImGuiMod_Ctrl | ImGuiKey_E}},
    {Command::kCopyTable,
     "Files",
     "Ctrl+Shift+C",
     "copy the panel's table",
     {ImGuiMod_Ctrl | ImGuiMod_Shift | ImGuiKey_C}},
    {Command::kQuit, "Files", "Ctrl+Q", "quit", {ImGuiMod_Ctrl | ImGuiKey_Q}},
    {Command::kUndo, "Window", "Ctrl+Z", "undo the last choice", {ImGuiMod_Ctrl | ImGuiKey_Z}},
    {Command::kRedo,
     "Window",
     "Ctrl+Y  or  Ctrl+Shift+Z",
     "redo it",
     {ImGuiMod_Ctrl | ImGuiKey_Y, ImGuiMod_Ctrl | ImGuiMod_Shift | ImGuiKey_Z}},
    {Command::kTheme, "Window", "T", "light or dark", {ImGuiKey_T}},
    {Command::kShortcuts, "Window", "?  or  F1", "these keys", {ImGuiKey_F1}, '?'},
};

// Undone again by the next press: holding the key must not make it flicker.
bool IsToggle(Command command) {
  switch (command) {
    case Command::kUndo:
    case Command::kRedo:
    case Command::kPreviousLayer:
    case Command::kNextLayer:
    case Command::kPreviousHead:
    case Command::kNextHead:
    case Command::kPreviousStep:
    case Command::kNextStep:
      return false;
    default:
      return true;
  }
}

bool IsTyped(char character) {
  for (const ImWchar typed : ImGui::GetIO().InputQueueCharacters) {
    if (character && typed == static_cast<ImWchar>(character)) return true;
  }
  return false;
}

bool IsPressed(const Shortcut& shortcut) {
  for (const ImGuiKeyChord chord : shortcut.chords) {
    const ImGuiInputFlags flags = IsToggle(shortcut.command) ? ImGuiInputFlags_None : ImGuiInputFlags_Repeat;
    if (chord && ImGui::IsKeyChordPressed(chord, flags, ImGuiKeyOwner_Any)) return true;
  }
  return IsTyped(shortcut.character);
}

}  // namespace

std::optional<Command> PressedCommand() {
  if (ImGui::GetIO().WantTextInput ||
      ImGui::IsPopupOpen("", ImGuiPopupFlags_AnyPopupId | ImGuiPopupFlags_AnyPopupLevel))
    return {};
  for (const Shortcut& shortcut : kShortcuts) {
    if (IsPressed(shortcut)) return shortcut.command;
  }
  return {};
}

bool IsCommandHeld() {
  for (const Shortcut& shortcut : kShortcuts) {
    for (const ImGuiKeyChord chord : shortcut.chords) {
      if (chord && ImGui::IsKeyDown(static_cast<ImGuiKey>(chord & ~ImGuiMod_Mask_))) return true;
    }
  }
  return false;
}

std::string KeysOf(Command command) {
  for (const Shortcut& shortcut : kShortcuts) {
    const std::string keys = shortcut.keys;
    if (shortcut.command == command) return keys.substr(0, keys.find("  or"));
  }
  return "";
}

void DrawShortcuts(bool& is_open) {
  if (!is_open) return;
  const ImGuiViewport* const viewport = ImGui::GetMainViewport();
  ImGui::SetNextWindowPos(viewport->GetCenter(), ImGuiCond_Always, {0.5f, 0.5f});
  constexpr ImGuiWindowFlags kFlags = ImGuiWindowFlags_AlwaysAutoResize | ImGuiWindowFlags_NoDocking |
                                      ImGuiWindowFlags_NoSavedSettings | ImGuiWindowFlags_NoCollapse |
                                      ImGuiWindowFlags_NoMove;
  if (ImGui::IsKeyPressed(ImGuiKey_Escape, false)) is_open = false;
  const bool is_appearing =
      ImGui::FindWindowByName("Shortcuts") == nullptr || !ImGui::FindWindowByName("Shortcuts")->WasActive;
  if (is_appearing) ImGui::SetNextWindowFocus();
  if (ImGui::Begin("Shortcuts", &is_open, kFlags) && ImGui::BeginTable("keys", 2, ImGuiTableFlags_SizingFixedFit)) {
    const char* heading = "";
    for (const Shortcut& shortcut : kShortcuts) {
      ImGui::TableNextRow();
      if (std::string(heading) != shortcut.heading) {
        heading = shortcut.heading;
        ImGui::TableNextColumn();
        ImGui::PushFont(CurrentTheme().bold, 0);
        ImGui::TextUnformatted(heading);
        ImGui::PopFont();
        ImGui::TableNextRow();
      }
      ImGui::TableNextColumn();
      ImGui::TextUnformatted(shortcut.keys);
      ImGui::TableNextColumn();
      ImGui::TextDisabled("%s", shortcut.what);
    }
    ImGui::EndTable();
  }
  ImGui::End();
}

}  // namespace kvscope
