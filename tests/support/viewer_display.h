// SPDX-License-Identifier: Apache-2.0
// A virtual display of a test's own, while the object lives: DISPLAY names it meanwhile.
#pragma once

#include <string>

namespace kvscope {

class Display {
 public:
  Display();
  ~Display();
  Display(const Display&) = delete;
  bool is_there() const { return number_ >= 0; }  // else Xvfb is not installed

 private:
  const std::string file_;
  int process_ = -1, number_ = -1;
};

}  // namespace kvscope
