// SPDX-License-Identifier: Apache-2.0
// Every name in a trace file; traces/FORMAT.md describes them and a test compares the two. Fields are appended only.
#pragma once

#include <string>

namespace kvscope::schema {

inline constexpr char kFormat[] = "kvscope.trace";
inline constexpr int kMajorVersion = 1, kMinorVersion = 0;

inline constexpr char kStatus[] = "/status";
inline constexpr char kModel[] = "/model";
inline constexpr char kRope[] = "/rope";
inline constexpr char kTokens[] = "/tokens";
inline constexpr char kAnswer[] = "/answer";
inline constexpr char kSegments[] = "/segments";
inline constexpr char kSpans[] = "/spans";
inline constexpr char kTask[] = "/task";
inline constexpr char kSteps[] = "/steps";
inline constexpr char kLayers[] = "/layer";

// Texts are two data sets: the bytes of all of them, and where each begins; one offset more than there are texts.
inline constexpr char kBytes[] = "_bytes", kOffsets[] = "_offsets";

// In a layer, at level relevance.
inline constexpr char kColumnSum[] = "/column_sum", kColumnMax[] = "/column_max", kColumnRows[] = "/column_rows";

inline std::string RopePath(const std::string& set) {
  return std::string(kRope) + "/" + set;
}
inline std::string LayerPath(int layer) {
  return std::string(kLayers) + "/" + (layer < 10 ? "0" : "") + std::to_string(layer);
}

}  // namespace kvscope::schema
