// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime.h>

#include "core/error.h"
#include "kernels/device.h"

namespace kvscope::cuda {
namespace {

// Never launched: its attributes tell whether this build has code for the device at hand.
__global__ void ProbeKernel() {}

cudaStream_t StreamOf(void* stream) {
  return static_cast<cudaStream_t>(stream);
}

}  // namespace

bool IsAvailable() {
  static const bool is_available = [] {
    int count = 0;
    cudaFuncAttributes attributes{};
    const bool usable = cudaGetDeviceCount(&count) == cudaSuccess && count > 0 &&
                        cudaFuncGetAttributes(&attributes, ProbeKernel) == cudaSuccess;
    if (!usable) static_cast<void>(cudaGetLastError());  // the next check must not report this one
    return usable;
  }();
  return is_available;
}

std::string DeviceName() {
  if (!IsAvailable()) return "none";
  int device = 0;
  cudaDeviceProp properties{};
  KVSCOPE_CHECK_CUDA(cudaGetDevice(&device));
  KVSCOPE_CHECK_CUDA(cudaGetDeviceProperties(&properties, device));
  return properties.name;
}

DeviceBuffer::DeviceBuffer(size_t bytes) : bytes_(bytes) {
  if (bytes > 0) KVSCOPE_CHECK_CUDA(cudaMalloc(&data_, bytes));
}

DeviceBuffer::~DeviceBuffer() {
  if (data_) cudaFree(data_);  // fails only after an error that was reported where it happened
}

void DeviceBuffer::CopyFromHost(const void* source, size_t bytes, void* stream) {
  KVSCOPE_CHECK_LE(bytes, bytes_);
  if (bytes == 0) return;
  KVSCOPE_CHECK_CUDA(cudaMemcpyAsync(data_, source, bytes, cudaMemcpyHostToDevice, StreamOf(stream)));
  Synchronize(stream);
}

void DeviceBuffer::CopyToHost(void* target, size_t bytes, void* stream) const {
  KVSCOPE_CHECK_LE(bytes, bytes_);
  if (bytes == 0) return;
  KVSCOPE_CHECK_CUDA(cudaMemcpyAsync(target, data_, bytes, cudaMemcpyDeviceToHost, StreamOf(stream)));
  Synchronize(stream);
}

void DeviceBuffer::Clear(void* stream) {
  if (bytes_ > 0) KVSCOPE_CHECK_CUDA(cudaMemsetAsync(data_, 0, bytes_, StreamOf(stream)));
}

void Synchronize(void* stream) {
  KVSCOPE_CHECK_CUDA(cudaStreamSynchronize(StreamOf(stream)));
}

void CheckCuda(int code, const char* expression, const char* file, int line) {
  if (code == cudaSuccess) return;
  const auto error = static_cast<cudaError_t>(code);
  throw Error(
      StrCat(file, ":", line, ": ", expression, " failed: ", cudaGetErrorName(error), ", ", cudaGetErrorString(error)));
}

void CheckLaunch(const char* kernel, const char* file, int line) {
  CheckCuda(cudaGetLastError(), StrCat("launch of ", kernel).c_str(), file, line);
}

}  // namespace kvscope::cuda
