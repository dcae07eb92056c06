// SPDX-License-Identifier: Apache-2.0
#include "tests/support/viewer_display.h"

#include <cstdio>
#include <cstdlib>

#include "core/error.h"
#include "tests/support/core_files.h"

namespace kvscope {

Display::Display() : file_(TempPath("display")) {
  const CommandResult started = RunCommand("command -v Xvfb >/dev/null || exit 1; rm -f " + file_ +
                                           "; Xvfb -displayfd 3 -screen 0 1280x900x24 -nolisten tcp 3>" + file_ +
                                           " >/dev/null 2>&1 & server=$!; for i in $(seq 300); do [ -s " + file_ +
                                           " ] && break; sleep 0.1; done; printf '%s %s' $server $(cat " + file_ + ")");
  if (started.exit_code != 0) return;  // not installed
  if (std::sscanf(started.output.c_str(), "%d %d", &process_, &number_) != 2)
    throw Error("Xvfb: expected it to start within 30 s, it did not");
  setenv("DISPLAY", StrCat(":", number_).c_str(), 1);
  unsetenv("WAYLAND_DISPLAY");
}

Display::~Display() {
  unsetenv("DISPLAY");
  if (process_ > 0) RunCommand(StrCat("kill ", process_));
}

}  // namespace kvscope
