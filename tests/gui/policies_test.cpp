// SPDX-License-Identifier: Apache-2.0
// Policies under the mouse: a budget that is dragged runs the replay again, and other panels follow.
#include <gtest/gtest.h>
#include <imgui_internal.h>
#include <imgui_te_context.h>

#include "tests/support/gui_app.h"

namespace kvscope {
namespace {

ViewState TwoPolicies() {
  ViewState view;
  view.policies = {{"snapkv", 0.25}, {"h2o", 0.25}};
  view.follows_policies = true;
  return view;
}

// Items of a column lie in a child window and a table.
std::string Column(ImGuiTestContext* ctx, int index, const char* item) {
  ctx->SetRef(ctx->WindowInfo("//Policies/columns").ID);
  return "policies/$$" + std::to_string(index) + "/" + item;
}

TEST(Policies, NothingIsReplayedUnasked) {
  DriveApp({.paths = {kNeedleTrace}}, [](ImGuiTestContext* ctx, App& app) {
    ctx->Yield(3);
    IM_CHECK(!app.view().follows_policies);
    ctx->WindowFocus("//Policies");
    ctx->Yield(3);
    IM_CHECK(app.view().follows_policies);
  });
}

TEST(Policies, ABudgetThatIsDraggedRunsTheReplayAgain) {
  DriveApp({.paths = {kNeedleTrace}, .view = TwoPolicies()}, [](ImGuiTestContext* ctx, App& app) {
    ctx->WindowFocus("//Policies");
    WaitUntilIdle(ctx, app);
    const auto before = app.policies().Outcome(0);
    IM_CHECK(before && before->trial);
    const std::string slider = Column(ctx, 0, "##keep");
    const ImRect rect = ctx->ItemInfo(slider.c_str()).RectFull;
    ctx->MouseMoveToPos({rect.Min.x + rect.GetWidth() * 0.7f, rect.GetCenter().y});
    ctx->MouseDown();
    ctx->MouseMoveToPos({rect.Min.x + rect.GetWidth() * 0.2f, rect.GetCenter().y});
    ctx->MouseUp();
    const double keep = app.view().policies[0].keep_fraction;
    IM_CHECK_LT(keep, 0.1);
    WaitUntilIdle(ctx, app);
    const auto after = app.policies().Outcome(0);
    IM_CHECK_EQ(after->choice.keep_fraction, keep);
    IM_CHECK(after->trial.has_value());
    IM_CHECK_GT(*after->trial->figures.Number("attention_loss"), *before->trial->figures.Number("attention_loss"));
    IM_CHECK_EQ(app.view().policies[1].keep_fraction, 0.25);  // the other stays
  });
}

TEST(Policies, ASpecThatIsTypedIsRunOrRefused) {
  DriveApp({.paths = {kNeedleTrace}, .view = TwoPolicies()}, [](ImGuiTestContext* ctx, App& app) {
    ctx->WindowFocus("//Policies");
    WaitUntilIdle(ctx, app);
    ctx->ItemInputValue(Column(ctx, 1, "##spec").c_str(), "snapkv+ada@int4:window=8");
    WaitUntilIdle(ctx, app);
    IM_CHECK_STR_EQ(app.policies().Outcome(1)->choice.spec.c_str(), "snapkv+ada@int4:window=8");
    IM_CHECK(app.policies().Outcome(1)->trial.has_value());
    ctx->ItemInputValue(Column(ctx, 1, "##spec").c_str(), "snapkv:window=none");
    WaitUntilIdle(ctx, app);
    IM_CHECK(app.policies().Outcome(1)->failure.find("expected an integer") != std::string::npos);
    IM_CHECK(app.policies().Outcome(0)->trial.has_value());
  });
}

TEST(Policies, PoliciesComeAndGo) {
  DriveApp({.paths = {kNeedleTrace}, .view = TwoPolicies()}, [](ImGuiTestContext* ctx, App& app) {
    ctx->WindowFocus("//Policies");
    WaitUntilIdle(ctx, app);
    ctx->ItemClick(Column(ctx, 0, "x").c_str());
    IM_CHECK_EQ(app.view().policies.size(), 1u);
    IM_CHECK_STR_EQ(app.view().policies[0].spec.c_str(), "h2o");
    ctx->SetRef("//Policies");
    ctx->ItemClick("Add a policy");
    ctx->ItemClick("//$FOCUSED/tova");
    IM_CHECK_EQ(app.view().policies.size(), 2u);
    WaitUntilIdle(ctx, app);
    IM_CHECK_STR_EQ(app.policies().Outcome(1)->choice.spec.c_str(), "tova");
    ctx->ItemClick(Column(ctx, 1, "follow this one").c_str());
    IM_CHECK_EQ(app.view().policy_index, 1);
  });
}

// From what is lost to the head that lost it.
TEST(Policies, TheNextHeadThatLostSomeIsAClickAway) {
  DriveApp({.paths = {kNeedleTrace}, .view = TwoPolicies()}, [](ImGuiTestContext* ctx, App& app) {
    ctx->WindowFocus("//Policies");
    WaitUntilIdle(ctx, app);
    ctx->SetRef(ctx->WindowInfo("//Policies/losses").ID);
    const int before = app.view().layer_index * 100 + app.view().head_index;
    ctx->ItemClick("next head that lost some");
    IM_CHECK_NE(app.view().layer_index * 100 + app.view().head_index, before);
  });
}

}  // namespace
}  // namespace kvscope
