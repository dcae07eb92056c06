// SPDX-License-Identifier: Apache-2.0
// Pieces that several panels draw with.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "viewer/panels.h"
#include "viewer/trace_document.h"

namespace kvscope {

// For a panel that needs a trace: draws why there is none to show and returns false.
bool HasTrace(const PanelContext& context);
void CentredText(const char* text);

// One colour a kind of band, the same in every panel; 0xAABBGGRR.
uint32_t BandColor(const std::string& kind);

// Goes on beside the last item, or on a new line where `width` more does not fit.
void SameLineIfFits(float width);
// A scale's colours from 0 to 1, side by side.
void DrawColorStrip(const std::function<uint32_t(double share)>& color_of);
// What an ink means, as a strip with its ends.
void DrawLegend(const WeightScale& scale, bool is_dark);

// Inside ImPlot::BeginPlot: needle, question, answer along the token axis, or along both of a map of queries by tokens.
enum class BandAxes { kTokens, kBoth };
void DrawBands(const std::vector<LabelledBand>& bands, BandAxes axes, bool has_names = true);

// A line down the plot at a token; -1: none.
void DrawTokenMark(int token);
// Along the foot of the plot: what the followed policy holds, darker in more bits.
void DrawKeptStrip(const std::vector<uint8_t>& bits, bool is_dark);

// The query after which policies are shown: that of the timeline's step.
int ShownQuery(const PanelContext& context);
// The newest outcome of one of the view's choices on this trace; null: none yet, or of another policy.
std::shared_ptr<const PolicyOutcome> OutcomeOf(const PanelContext& context, int policy_index);
// The followed policy's outcome, when it has an answer.
std::shared_ptr<const PolicyOutcome> FollowedOutcome(const PanelContext& context);
// Bits of each token in its cache of the chosen head after the shown query, 0: dropped; empty: no policy is followed.
std::vector<uint8_t> FollowedBits(const PanelContext& context);
// In a tooltip: "kept in 8 bits by snapkv", when a policy is followed.
void DrawKeptText(const PanelContext& context, int token);
// Marks a token, or takes the mark away where it is.
void MarkToken(ViewState& view, int token, int num_tokens);

// A press that was no drag ended in this frame.
bool WasClicked();

// Between SetupFinish and the end of a plot over tokens: what the mouse made of its axes goes into the view, in whole
// tokens. Without queries the window keeps those of `before`. Returns what the plot shows; set its limits, which locks
// its axes, only when the view shows something else.
MapWindow FollowMouse(const TraceDocument& document, const MapWindow& before, bool has_queries, ViewState& view);
inline constexpr double kFewestTokens = 8;  // across a plot, zoomed in as far as it goes

}  // namespace kvscope
