// SPDX-License-Identifier: Apache-2.0
// What can be done without the mouse: one table that the keys, the menus and the overlay read.
#pragma once

#include <optional>
#include <string>

namespace kvscope {

enum class Command {
  kOpen,
  kSavePicture,
  kSaveTable,
  kCopyTable,
  kQuit,
  kUndo,
  kRedo,
  kPreviousLayer,
  kNextLayer,
  kPreviousHead,
  kNextHead,
  kPreviousStep,
  kNextStep,
  kPlay,
  kLogScale,
  kMaskSinks,
  kWholeHeatmap,
  kSearch,
  kTheme,
  kShortcuts,
};

// What the keys ask for in this frame. Nothing while a text field has the keys or a menu or dialog is open.
std::optional<Command> PressedCommand();
// A key of the table is still down: what it changes goes on changing.
bool IsCommandHeld();
// As it is written in a menu: "Ctrl+O".
std::string KeysOf(Command command);
// All of them, in a window of its own; Escape closes it.
void DrawShortcuts(bool& is_open);

}  // namespace kvscope
