// SPDX-License-Identifier: Apache-2.0
#include "viewer/history.h"

#include <gtest/gtest.h>

namespace kvscope {
namespace {

ViewState At(int step) {
  return {.step = step};
}

TEST(History, GoesBackAndForth) {
  History history(At(0));
  EXPECT_FALSE(history.Undo());
  EXPECT_FALSE(history.Redo());
  history.Record(At(1));
  history.Record(At(2));
  EXPECT_EQ(history.Undo(), At(1));
  EXPECT_EQ(history.Undo(), At(0));
  EXPECT_FALSE(history.can_undo());
  EXPECT_EQ(history.Redo(), At(1));
  EXPECT_EQ(history.Redo(), At(2));
  EXPECT_FALSE(history.can_redo());
}

TEST(History, TheSameViewIsNoStep) {
  History history(At(0));
  for (int frame = 0; frame < 5; ++frame) history.Record(At(1));
  EXPECT_EQ(history.Undo(), At(0));
  history.Record(At(0));
  EXPECT_EQ(history.Redo(), At(1));
}

TEST(History, ANewChoiceForgetsWhatWasUndone) {
  History history(At(0));
  history.Record(At(1));
  history.Undo();
  history.Record(At(2));
  EXPECT_FALSE(history.can_redo());
  EXPECT_EQ(history.Undo(), At(0));
}

// Else an undo whose view is corrected could never be undone further.
TEST(History, WhatTheProgramCorrectsIsNoStep) {
  History history(At(0));
  history.Record(At(1));
  history.Record(At(2));
  history.Undo();
  history.Amend(At(7));
  history.Record(At(7));
  EXPECT_TRUE(history.can_redo());
  EXPECT_EQ(history.Undo(), At(0));
  EXPECT_EQ(history.Redo(), At(7));
}

TEST(History, RemembersTheNewest) {
  History history(At(0));
  const int last = static_cast<int>(History::kMostSteps) + 50;
  for (int step = 1; step <= last; ++step) history.Record(At(step));
  int undone = 0;
  while (history.Undo()) ++undone;
  EXPECT_EQ(undone, static_cast<int>(History::kMostSteps));
  EXPECT_EQ(history.now(), At(50));
}

}  // namespace
}  // namespace kvscope
