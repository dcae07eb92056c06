// SPDX-License-Identifier: Apache-2.0
#include "viewer/texture.h"

#include <gtest/gtest.h>
#include <imgui.h>

#include <functional>
#include <memory>

#include "viewer/shell.h"

namespace kvscope {
namespace {

constexpr uint32_t kRed = 0xff0000ff, kGreen = 0xff00ff00, kBlue = 0xffff0000, kWhite = 0xffffffff;

struct LambdaFrame : Frame {
  explicit LambdaFrame(std::function<void(int)> draw) : draw_(std::move(draw)) {}
  void Draw() override { draw_(frames_++); }
  std::function<void(int)> draw_;
  int frames_ = 0;
};

Image Render(std::function<void(int)> draw) {
  LambdaFrame frame(std::move(draw));
  return RenderOffscreen(frame, {.width = 80, .height = 60}, 30);
}

void FillAll(const Texture& texture) {
  texture.Draw(*ImGui::GetBackgroundDrawList(), {0, 0}, {80, 60});
}

TEST(Texture, PixelsBecomeSharpCells) {
  Texture texture;
  texture.Set({2, 2, {kRed, kGreen, kBlue, kWhite}});
  const Image image = Render([&](int) { FillAll(texture); });
  for (int y = 0; y < 60; ++y) {
    for (int x = 0; x < 80; ++x) {
      const uint32_t expected = y < 30 ? (x < 40 ? kRed : kGreen) : (x < 40 ? kBlue : kWhite);
      ASSERT_EQ(image.rgba[static_cast<size_t>(y) * 80 + x], expected) << x << " " << y;
    }
  }
}

TEST(Texture, ANewPictureReplacesTheOldOneInEveryFrame) {
  Texture texture;
  const Image image = Render([&](int frame) {
    texture.Set({1, 1, {kRed}});
    FillAll(texture);
    texture.Set(
        {3, 1 + frame, std::vector<uint32_t>(3 * (1 + static_cast<size_t>(frame)), kBlue)});  // in the same frame
    texture.Draw(*ImGui::GetBackgroundDrawList(), {0, 0}, {40, 60});
  });
  EXPECT_EQ(image.rgba[10], kBlue);
  EXPECT_EQ(image.rgba[70], kRed);
}

TEST(Texture, OutlivesAShell) {
  Texture texture;
  texture.Set({1, 1, {kGreen}});
  for (int shell = 0; shell < 2; ++shell) {
    EXPECT_EQ(Render([&](int) { FillAll(texture); }).rgba[0], kGreen);
  }
  texture.Clear();
  texture.Set({1, 1, {kRed}});
  EXPECT_EQ(Render([&](int) { FillAll(texture); }).rgba[0], kRed);
}

TEST(Texture, MayGoWhileAFrameIsDrawn) {
  auto texture = std::make_unique<Texture>();
  texture->Set({1, 1, {kGreen}});
  const Image image = Render([&](int frame) {
    if (texture) FillAll(*texture);
    if (frame == 1) texture.reset();
  });
  EXPECT_NE(image.rgba[0], kGreen);
}

}  // namespace
}  // namespace kvscope
