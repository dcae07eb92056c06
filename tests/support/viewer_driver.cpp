// SPDX-License-Identifier: Apache-2.0
// For builds with a leak sanitizer: Mesa's drivers leak a little and are unloaded before it can say whose the blocks
// were, so it does not look for leaks here, nor in the programs that tests run.
#include <cstdlib>

extern "C" const char* __asan_default_options() {
  return "detect_leaks=0";
}

namespace {
[[maybe_unused]] const int for_children = setenv("ASAN_OPTIONS", "detect_leaks=0", /*overwrite=*/0);
}
