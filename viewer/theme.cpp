// SPDX-License-Identifier: Apache-2.0
#include "viewer/theme.h"

#include <imgui.h>
#include <implot.h>

#include <filesystem>
#include <initializer_list>
#include <string>

namespace kvscope {
namespace {

constexpr float kFontSize = 15;

constexpr uint32_t FromRgb(uint32_t rgb) {
  return 0xff000000 | (rgb & 255) << 16 | (rgb & 0xff00) | rgb >> 16;
}

constexpr Palette kDark = {.canvas = FromRgb(0x131519),
                           .surface = FromRgb(0x1b1e24),
                           .raised = FromRgb(0x2a2f38),
                           .hairline = FromRgb(0x30353e),
                           .ink = FromRgb(0xe6e8ec),
                           .soft_ink = FromRgb(0xa4aab5),
                           .faint_ink = FromRgb(0x6d7480),
                           .accent = FromRgb(0x4fb9a5),
                           .needle = FromRgb(0xff9350),
                           .series = {FromRgb(0x4ba3e3), FromRgb(0xf07f46), FromRgb(0x35c193), FromRgb(0xe495c2),
                                      FromRgb(0xf0b53a), FromRgb(0x86d3f7), FromRgb(0xb08fd8)}};
constexpr Palette kLight = {.canvas = FromRgb(0xefede6),
                            .surface = FromRgb(0xfffefb),
                            .raised = FromRgb(0xf0ede6),
                            .hairline = FromRgb(0xdcd9d0),
                            .ink = FromRgb(0x22252a),
                            .soft_ink = FromRgb(0x626873),
                            .faint_ink = FromRgb(0x8f9296),
                            .accent = FromRgb(0x0f7d7a),
                            .needle = FromRgb(0xc85400),
                            .series = {FromRgb(0x0072b2), FromRgb(0xd55e00), FromRgb(0x009e73), FromRgb(0xcc79a7),
                                       FromRgb(0xe69f00), FromRgb(0x56b4e9), FromRgb(0x7a4f9a)}};

Theme current_theme;

ImVec4 Color(uint32_t rgba, float alpha = 1) {
  ImVec4 color = ImGui::ColorConvertU32ToFloat4(rgba);
  color.w *= alpha;
  return color;
}

ImVec4 Mix(uint32_t from, uint32_t to, float share_of_to) {
  const ImVec4 a = Color(from), b = Color(to);
  const auto mix = [&](float x, float y) { return x + (y - x) * share_of_to; };
  return {mix(a.x, b.x), mix(a.y, b.y), mix(a.z, b.z), 1};
}

// The path of a DejaVu font, or nothing.
std::string FontPath(const std::string& file) {
  for (const char* folder :
       {"/usr/share/fonts/truetype/dejavu/", "/usr/share/fonts/dejavu/", "/usr/share/fonts/TTF/"}) {
    std::error_code ignored;
    if (std::filesystem::is_regular_file(folder + file, ignored)) return folder + file;
  }
  return "";
}

// The first file, and the second for characters that the first lacks. Dear ImGui draws a character when it is needed.
ImFont* LoadFont(const std::string& file, const std::string& fallback_file) {
  ImFontAtlas& atlas = *ImGui::GetIO().Fonts;
  const std::string path = FontPath(file), fallback_path = FontPath(fallback_file);
  ImFontConfig config;
  config.Flags |= ImFontFlags_NoLoadError;
  ImFont* font = path.empty() ? nullptr : atlas.AddFontFromFileTTF(path.c_str(), kFontSize, &config);
  if (!font) return atlas.AddFontDefaultVector();
  config.MergeMode = true;
  if (!fallback_path.empty()) atlas.AddFontFromFileTTF(fallback_path.c_str(), kFontSize, &config);
  return font;
}

// For scripts that DejaVu lacks, where they are installed (Debian's places): Chinese, Japanese and Korean first, then
// what has most of the rest. A character that none has is drawn as U+FFFD.
void MergeFurtherFonts() {
  ImFontConfig config;
  config.Flags |= ImFontFlags_NoLoadError;
  config.MergeMode = true;
  for (const char* const path :
       {"/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
        "/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf", "/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc",
        "/usr/share/fonts/truetype/freefont/FreeSans.ttf", "/usr/share/fonts/opentype/unifont/unifont.otf"}) {
    std::error_code ignored;
    if (std::filesystem::is_regular_file(path, ignored))
      ImGui::GetIO().Fonts->AddFontFromFileTTF(path, kFontSize, &config);
  }
}

void SetSizes(ImGuiStyle& style) {
  style.FontSizeBase = kFontSize;
  style.WindowPadding = {12, 10};
  style.FramePadding = {9, 5};
  style.ItemSpacing = {9, 7};
  style.ItemInnerSpacing = {7, 5};
  style.CellPadding = {8, 4};
  style.IndentSpacing = 18;
  style.ScrollbarSize = 12;
  style.ScrollbarPadding = 3;
  style.GrabMinSize = 12;
  style.WindowBorderSize = style.ChildBorderSize = style.PopupBorderSize = 1;
  style.FrameBorderSize = style.TabBorderSize = 0;  // a frame's border would be drawn around every plot as well
  style.WindowRounding = style.PopupRounding = style.ChildRounding = 6;
  style.FrameRounding = style.TabRounding = style.GrabRounding = 4;
  style.ScrollbarRounding = 6;
  style.TabBarBorderSize = 1;
  style.TabBarOverlineSize = 2;
  style.DockingSeparatorSize = 3;
  style.SeparatorTextBorderSize = 1;
  style.WindowMenuButtonPosition = ImGuiDir_None;
  style.WindowTitleAlign = {0, 0.5f};
}

void SetColors(ImGuiStyle& style, const Palette& p) {
  const auto set = [&](std::initializer_list<ImGuiCol> names, const ImVec4& color) {
    for (const ImGuiCol name : names) style.Colors[name] = color;
  };
  const ImVec4 clear(0, 0, 0, 0);
  set({ImGuiCol_Text, ImGuiCol_InputTextCursor}, Color(p.ink));
  set({ImGuiCol_TextDisabled}, Color(p.soft_ink));
  set({ImGuiCol_WindowBg, ImGuiCol_TableHeaderBg}, Color(p.surface));
  set({ImGuiCol_ChildBg, ImGuiCol_BorderShadow, ImGuiCol_ScrollbarBg, ImGuiCol_TableRowBg}, clear);
  set({ImGuiCol_FrameBg}, Color(p.raised));
  set({ImGuiCol_PopupBg}, Mix(p.surface, p.raised, 0.5f));
  set({ImGuiCol_Border, ImGuiCol_Separator, ImGuiCol_TableBorderStrong, ImGuiCol_TreeLines}, Color(p.hairline));
  set({ImGuiCol_TableBorderLight}, Color(p.hairline, 0.6f));
  set({ImGuiCol_TableRowBgAlt}, Color(p.ink, 0.025f));
  set({ImGuiCol_TitleBg, ImGuiCol_TitleBgActive, ImGuiCol_TitleBgCollapsed, ImGuiCol_MenuBarBg,
       ImGuiCol_DockingEmptyBg},
      Color(p.canvas));
  // Grey answers the pointer, teal says what is chosen.
  set({ImGuiCol_FrameBgHovered, ImGuiCol_FrameBgActive}, Mix(p.raised, p.ink, 0.07f));
  set({ImGuiCol_Button}, Mix(p.raised, p.ink, 0.04f));
  set({ImGuiCol_ButtonHovered}, Mix(p.raised, p.ink, 0.11f));
  set({ImGuiCol_ButtonActive}, Mix(p.raised, p.ink, 0.17f));
  set({ImGuiCol_Header}, Color(p.accent, 0.20f));
  set({ImGuiCol_HeaderHovered}, Color(p.accent, 0.28f));
  set({ImGuiCol_HeaderActive, ImGuiCol_TextSelectedBg}, Color(p.accent, 0.36f));
  set({ImGuiCol_CheckMark, ImGuiCol_SliderGrab, ImGuiCol_SliderGrabActive, ImGuiCol_TabSelectedOverline,
       ImGuiCol_SeparatorHovered, ImGuiCol_SeparatorActive, ImGuiCol_TextLink, ImGuiCol_DragDropTarget,
       ImGuiCol_NavCursor, ImGuiCol_PlotLines, ImGuiCol_PlotHistogram, ImGuiCol_UnsavedMarker},
      Color(p.accent));
  set({ImGuiCol_CheckboxSelectedBg}, Color(p.raised));
  set({ImGuiCol_PlotLinesHovered, ImGuiCol_PlotHistogramHovered}, Color(p.needle));
  set({ImGuiCol_DragDropTargetBg}, Color(p.accent, 0.10f));
  set({ImGuiCol_DockingPreview}, Color(p.accent, 0.45f));
  set({ImGuiCol_Tab, ImGuiCol_TabDimmed}, Color(p.canvas));
  set({ImGuiCol_TabHovered}, Mix(p.surface, p.ink, 0.10f));
  set({ImGuiCol_TabSelected, ImGuiCol_TabDimmedSelected}, Color(p.surface));
  set({ImGuiCol_TabDimmedSelectedOverline}, clear);
  set({ImGuiCol_ScrollbarGrab}, Color(p.ink, 0.16f));
  set({ImGuiCol_ScrollbarGrabHovered}, Color(p.ink, 0.26f));
  set({ImGuiCol_ScrollbarGrabActive}, Color(p.ink, 0.36f));
  set({ImGuiCol_ResizeGrip}, clear);
  set({ImGuiCol_ResizeGripHovered, ImGuiCol_ResizeGripActive}, Color(p.accent, 0.6f));
  set({ImGuiCol_NavWindowingHighlight}, Color(p.ink, 0.5f));
  set({ImGuiCol_NavWindowingDimBg, ImGuiCol_ModalWindowDimBg}, Color(p.canvas, 0.6f));
}

void SetPlotStyle(ImPlotStyle& style, const Theme& theme, float scale) {
  const Palette& p = theme.palette;
  style.PlotPadding = {10 * scale, 8 * scale};
  style.LabelPadding = {6 * scale, 5 * scale};
  style.LegendPadding = {8 * scale, 8 * scale};
  style.LegendInnerPadding = {7 * scale, 6 * scale};
  style.LegendSpacing = {8 * scale, 3 * scale};
  style.MousePosPadding = {8 * scale, 6 * scale};
  style.AnnotationPadding = {4 * scale, 3 * scale};
  style.PlotDefaultSize = {400 * scale, 300 * scale};
  style.PlotMinSize = {160 * scale, 100 * scale};
  style.MajorTickLen = {5 * scale, 5 * scale};
  style.MinorTickLen = {3 * scale, 3 * scale};
  style.MinorAlpha = 0.45f;
  style.FitPadding = {0.01f, 0.06f};
  style.PlotBorderSize = 1;
  style.Colors[ImPlotCol_FrameBg] = {0, 0, 0, 0};
  style.Colors[ImPlotCol_PlotBg] = {0, 0, 0, 0};
  style.Colors[ImPlotCol_PlotBorder] = Color(p.hairline);
  style.Colors[ImPlotCol_LegendBg] = Color(p.raised, 0.9f);
  style.Colors[ImPlotCol_LegendBorder] = Color(p.hairline);
  style.Colors[ImPlotCol_LegendText] = style.Colors[ImPlotCol_TitleText] = Color(p.ink);
  style.Colors[ImPlotCol_InlayText] = Color(p.soft_ink);
  style.Colors[ImPlotCol_AxisText] = Color(p.soft_ink);
  style.Colors[ImPlotCol_AxisGrid] = Color(p.hairline, 0.7f);
  style.Colors[ImPlotCol_AxisTick] = Color(p.faint_ink);
  style.Colors[ImPlotCol_AxisBg] = {0, 0, 0, 0};
  style.Colors[ImPlotCol_AxisBgHovered] = Color(p.ink, 0.06f);
  style.Colors[ImPlotCol_AxisBgActive] = Color(p.ink, 0.10f);
  style.Colors[ImPlotCol_Selection] = Color(p.accent);
  style.Colors[ImPlotCol_Crosshairs] = Color(p.faint_ink);
  const char* name = theme.is_dark ? "kvscope dark" : "kvscope light";
  style.Colormap = ImPlot::GetColormapIndex(name);
  if (style.Colormap < 0)
    style.Colormap = ImPlot::AddColormap(name, p.series.data(), static_cast<int>(p.series.size()));
}

}  // namespace

Theme ApplyTheme(bool is_dark, float scale) {
  Theme theme{.is_dark = is_dark, .palette = is_dark ? kDark : kLight};
  ImGui::GetIO().Fonts->Clear();
  theme.regular = LoadFont("DejaVuSans.ttf", "DejaVuSansMono.ttf");
  MergeFurtherFonts();  // into the one loaded last
  theme.bold = LoadFont("DejaVuSans-Bold.ttf", "DejaVuSans.ttf");
  theme.mono = LoadFont("DejaVuSansMono.ttf", "DejaVuSans.ttf");
  ImGuiStyle style;
  SetSizes(style);
  SetColors(style, theme.palette);
  style.ScaleAllSizes(scale);
  style.FontScaleDpi = scale;
  ImGui::GetStyle() = style;
  SetPlotStyle(ImPlot::GetStyle(), theme, scale);
  current_theme = theme;
  return theme;
}

const Theme& CurrentTheme() {
  return current_theme;
}

}  // namespace kvscope
