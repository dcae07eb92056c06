// SPDX-License-Identifier: Apache-2.0
// A made-up but plausible study of adkvc, for tests of its page and for looking at its pictures. Nothing here was
// measured.
#pragma once

#include "replay/study.h"

namespace kvscope {

struct FakeStudyOptions {
  int layers = 30, heads = 9, kv_heads = 3, needles = 20, needle_tokens = 14;
  bool is_whole = true;  // else only the main arm, decided after the question, at two sizes
};
Study FakeStudy(const FakeStudyOptions& options = {});

}  // namespace kvscope
