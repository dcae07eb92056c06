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
int DeviceCount() {
  return 0;
}
int DeviceInUse() {
  return 0;
}
void UseDevice(int) {
  NoCuda("a device");
}
std::string DeviceName() {
  return "none";
}
size_t FreeDeviceBytes() {
  return 0;
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
PinnedBuffer::PinnedBuffer(size_t) {
  NoCuda("pinned memory");
}
PinnedBuffer::~PinnedBuffer() = default;
Stream::Stream() {
  NoCuda("a stream");
}
Stream::~Stream() = default;
Event::Event() {
  NoCuda("an event");
}
Event::~Event() = default;
void Event::Record(void*) {}
void Event::Delay(void*) const {}
void Event::Synchronize() const {}
Graph::Graph(const std::function<void(void*)>&) {
  NoCuda("a graph");
}
Graph::~Graph() = default;
void Graph::Launch(void*) const {}
void CopyAsync(void*, const void*, size_t, void*) {
  NoCuda("copy");
}
void CopyRowsAsync(void*, size_t, const void*, size_t, size_t, size_t, void*) {
  NoCuda("copy");
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
