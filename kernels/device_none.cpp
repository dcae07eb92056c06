// SPDX-License-Identifier: Apache-2.0
// What device.h declares, in a build without CUDA: there is no device, and nothing can be put on it.
#include "core/error.h"
#include "kernels/device.h"

namespace kvscope::cuda {
namespace {

[[noreturn]] void NoCuda(const char* what) {
  throw Error(StrCat(what, ": this build has no CUDA; rebuild with nvcc on PATH and -DKVSCOPE_CUDA=ON"));
}

}  // namespace

bool IsAvailable() {
  return false;
}
std::string DeviceName() {
  return "none";
}

DeviceBuffer::DeviceBuffer(size_t) {
  NoCuda("device memory");
}
DeviceBuffer::~DeviceBuffer() = default;
void DeviceBuffer::CopyFromHost(const void*, size_t, void*) {
  NoCuda("copy to the device");
}
void DeviceBuffer::CopyToHost(void*, size_t, void*) const {
  NoCuda("copy from the device");
}
void DeviceBuffer::Clear(void*) {
  NoCuda("device memory");
}
void Synchronize(void*) {
  NoCuda("wait for the device");
}
void CheckCuda(int, const char* expression, const char*, int) {
  NoCuda(expression);
}
void CheckLaunch(const char* kernel, const char*, int) {
  NoCuda(kernel);
}

}  // namespace kvscope::cuda
