// SPDX-License-Identifier: Apache-2.0
// The little that the CUDA twins share: is there a device, memory on it, and errors as sentences. No CUDA header is
// included, so that tests and CPU code compile without a toolkit; device.cu defines everything, device_none.cpp does in
// a build without CUDA.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#ifdef __CUDACC__
#define KVSCOPE_HOST_DEVICE __host__ __device__
#else
#define KVSCOPE_HOST_DEVICE
#endif

namespace kvscope::cuda {

// True when a device is present that this build has code for. Never throws.
bool IsAvailable();
std::string DeviceName();  // "none" without one

// Memory on the current device; freed with the object. Copies are synchronous with the given stream's earlier work.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(size_t bytes);
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

  void CopyFromHost(const void* source, size_t bytes, void* stream = nullptr);  // bytes <= bytes()
  void CopyToHost(void* target, size_t bytes, void* stream = nullptr) const;
  void Clear(void* stream = nullptr);  // zero bytes

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Waits for the stream; throws what its kernels failed with.
void Synchronize(void* stream = nullptr);

// Throws Error with the expression, the place and CUDA's own words when code (a cudaError_t) is not success.
void CheckCuda(int code, const char* expression, const char* file, int line);
// The same after a launch, with the kernel's name. It sees a launch that failed, not a kernel that fails later.
void CheckLaunch(const char* kernel, const char* file, int line);

}  // namespace kvscope::cuda

#define KVSCOPE_CHECK_CUDA(expression) \
  ::kvscope::cuda::CheckCuda(static_cast<int>(expression), #expression, __FILE__, __LINE__)
