// SPDX-License-Identifier: Apache-2.0
// How everything looks. Neutral surfaces, so that the data has the colours; teal for what can be used and is chosen,
// orange for needles, as in the report (replay/chart_color.h).
#pragma once

#include <array>
#include <cstdint>

struct ImFont;

namespace kvscope {

// 0xAABBGGRR, as Dear ImGui's draw lists want them.
struct Palette {
  uint32_t canvas;   // behind panels
  uint32_t surface;  // a panel
  uint32_t raised;   // popups, fields
  uint32_t hairline;
  uint32_t ink, soft_ink, faint_ink;
  uint32_t accent, needle;
  std::array<uint32_t, 7> series;  // curves, in the order of the report's hues
};

struct Theme {
  bool is_dark = true;
  Palette palette;
  ImFont* regular = nullptr;  // DejaVu where it is installed, else Dear ImGui's own
  ImFont* bold = nullptr;
  ImFont* mono = nullptr;
};

// Loads fonts and sets Dear ImGui's and ImPlot's styles in the contexts that are current.
Theme ApplyTheme(bool is_dark, float scale);
// The theme that was applied last; frames draw with it.
const Theme& CurrentTheme();

}  // namespace kvscope
