// SPDX-License-Identifier: Apache-2.0
#include "kernels/device_choice.h"

#include <charconv>

#include "core/error.h"
#include "core/units.h"
#include "kernels/device.h"

namespace kvscope {

DeviceChoice ChooseDevice(const std::string& flag, bool can_use_cuda) {
  if (flag == "cpu") return {};
  if (flag == "auto") return {can_use_cuda && cuda::DeviceCount() > 0, 0};
  DeviceChoice choice{true, 0};
  const std::string number = flag.starts_with("cuda:") ? flag.substr(5) : "0";
  const auto [end, failure] = std::from_chars(number.data(), number.data() + number.size(), choice.index);
  const bool is_cuda = flag == "cuda" || flag.starts_with("cuda:");
  if (!is_cuda || failure != std::errc() || end != number.data() + number.size() || choice.index < 0) {
    throw Error(StrCat("--device ", Escape(flag), ": expected cpu, ", can_use_cuda ? "cuda:0 " : "", "or auto"));
  }
  if (!can_use_cuda) throw Error(StrCat("--device ", flag, ": this command runs on the CPU; expected cpu or auto"));
  if (const int count = cuda::DeviceCount(); choice.index >= count) {
#ifdef KVSCOPE_HAVE_CUDA
    throw Error(StrCat("--device ", flag, ": found ", count, " CUDA devices that this build has code for; expected ",
                       count > 0 ? StrCat("cuda:0 to cuda:", count - 1, ", ") : "", "cpu or auto"));
#else
    throw Error(StrCat("--device ", flag, ": this build has no CUDA; rebuild with nvcc on PATH, or use --device cpu"));
#endif
  }
  return choice;
}

}  // namespace kvscope
