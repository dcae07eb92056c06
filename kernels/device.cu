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

int DeviceCount() {
  int count = 0;
  if (IsAvailable()) KVSCOPE_CHECK_CUDA(cudaGetDeviceCount(&count));
  return count;
}

int DeviceInUse() {
  int device = 0;
  KVSCOPE_CHECK_CUDA(cudaGetDevice(&device));
  return device;
}

void UseDevice(int index) {
  KVSCOPE_CHECK_CUDA(cudaSetDevice(index));
}

size_t FreeDeviceBytes() {
  size_t free_bytes = 0, total_bytes = 0;
  KVSCOPE_CHECK_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
  return free_bytes;
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

PinnedBuffer::PinnedBuffer(size_t bytes) : bytes_(bytes) {
  if (bytes > 0) KVSCOPE_CHECK_CUDA(cudaMallocHost(&data_, bytes));
}
PinnedBuffer::~PinnedBuffer() {
  if (data_) cudaFreeHost(data_);
}

Stream::Stream() {
  cudaStream_t stream = nullptr;
  KVSCOPE_CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  stream_ = stream;
}
Stream::~Stream() {
  cudaStreamSynchronize(StreamOf(stream_));
  cudaStreamDestroy(StreamOf(stream_));
}

Event::Event() {
  cudaEvent_t event = nullptr;
  KVSCOPE_CHECK_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  event_ = event;
}
Event::~Event() {
  if (event_) cudaEventDestroy(static_cast<cudaEvent_t>(event_));
}
void Event::Record(void* stream) {
  KVSCOPE_CHECK_CUDA(cudaEventRecord(static_cast<cudaEvent_t>(event_), StreamOf(stream)));
}
void Event::Delay(void* stream) const {
  KVSCOPE_CHECK_CUDA(cudaStreamWaitEvent(StreamOf(stream), static_cast<cudaEvent_t>(event_), 0));
}
void Event::Synchronize() const {
  KVSCOPE_CHECK_CUDA(cudaEventSynchronize(static_cast<cudaEvent_t>(event_)));
}

Graph::Graph(const std::function<void(void* stream)>& record) {
  const Stream stream;
  KVSCOPE_CHECK_CUDA(cudaStreamBeginCapture(StreamOf(stream.get()), cudaStreamCaptureModeThreadLocal));
  cudaGraph_t graph = nullptr;
  try {
    record(stream.get());
  } catch (...) {
    cudaStreamEndCapture(StreamOf(stream.get()), &graph);
    if (graph) cudaGraphDestroy(graph);
    throw;
  }
  KVSCOPE_CHECK_CUDA(cudaStreamEndCapture(StreamOf(stream.get()), &graph));
  cudaGraphExec_t executable = nullptr;
  const cudaError_t made = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  KVSCOPE_CHECK_CUDA(made);
  graph_ = executable;
}
Graph::~Graph() {
  if (graph_) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph_));
}
void Graph::Launch(void* stream) const {
  KVSCOPE_CHECK_CUDA(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph_), StreamOf(stream)));
}

void CopyAsync(void* target, const void* source, size_t bytes, void* stream) {
  if (bytes > 0) KVSCOPE_CHECK_CUDA(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, StreamOf(stream)));
}
void CopyRowsAsync(void* target, size_t target_pitch, const void* source, size_t source_pitch, size_t row_bytes,
                   size_t rows, void* stream) {
  if (row_bytes == 0 || rows == 0) return;
  KVSCOPE_CHECK_CUDA(cudaMemcpy2DAsync(target, target_pitch, source, source_pitch, row_bytes, rows, cudaMemcpyDefault,
                                       StreamOf(stream)));
}

void Synchronize(void* stream) {
  KVSCOPE_CHECK_CUDA(cudaStreamSynchronize(StreamOf(stream)));
}

void CheckCuda(int code, const char* expression, const char* file, int line) {
  if (code == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // else the next launch would report this one
  const auto error = static_cast<cudaError_t>(code);
  throw Error(
      StrCat(file, ":", line, ": ", expression, " failed: ", cudaGetErrorName(error), ", ", cudaGetErrorString(error)));
}

void CheckLaunch(const char* kernel, const char* file, int line) {
  CheckCuda(cudaGetLastError(), StrCat("launch of ", kernel).c_str(), file, line);
}

}  // namespace kvscope::cuda
