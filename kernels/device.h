// SPDX-License-Identifier: Apache-2.0
// What host code needs of a device: is there one, memory on it, streams, events, graphs, and errors as sentences. No
// CUDA header is included, so that tests and CPU code compile without a toolkit; device.cu defines everything,
// device_none.cpp does in a build without CUDA, tests/support/kernels_device.cpp for the emulation. A stream is a
// cudaStream_t as void*; nullptr is the default stream.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <utility>

#include "kernels/tensor.h"

#ifdef __CUDACC__
#define KVSCOPE_HOST_DEVICE __host__ __device__
#else
#define KVSCOPE_HOST_DEVICE
#endif

#ifndef KVSCOPE_TWIN
#define KVSCOPE_TWIN cuda  // tests/support/kernels_fibres.h names another
#define KVSCOPE_TWIN_DEVICE ::kvscope::Device::kCuda
#endif

namespace kvscope::KVSCOPE_TWIN {

inline constexpr Device kTwinDevice = KVSCOPE_TWIN_DEVICE;  // where the views of this twin lie

// True when a device is present that this build has code for. Never throws.
bool IsAvailable();
int DeviceCount();          // 0 without one that this build has code for
int DeviceInUse();          // by the calling thread
int DeviceInUse();          // by the calling thread
void UseDevice(int index);  // by the calling thread from now on; index < DeviceCount()
std::string DeviceName();   // of the one in use; "none" without one
size_t FreeDeviceBytes();   // memory that the device in use could still give

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

// Memory of the host that a device copies from and to while both go on.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(size_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(PinnedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Work in the order it was given, beside that of other streams.
class Stream {
 public:
  Stream();
  ~Stream();  // waits
  Stream(Stream&&) = delete;
  void* get() const { return stream_; }

 private:
  void* stream_ = nullptr;
};

// A point in a stream's work.
class Event {
 public:
  Event();
  ~Event();
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  void Record(void* stream);
  void Delay(void* stream) const;  // what the stream is given from now on waits for the recorded point
  void Synchronize() const;        // the caller waits for it, on any thread; an event never recorded is over

 private:
  void* event_ = nullptr;
};

// Work that was recorded once and is started as a whole. Pointers and numbers in it stay as they were.
class Graph {
 public:
  Graph() = default;
  explicit Graph(const std::function<void(void* stream)>& record);
  ~Graph();
  Graph(Graph&& other) noexcept : graph_(std::exchange(other.graph_, nullptr)) {}
  Graph& operator=(Graph&& other) noexcept {
    std::swap(graph_, other.graph_);
    return *this;
  }
  bool is_recorded() const { return graph_ != nullptr; }
  void Launch(void* stream) const;

 private:
  void* graph_ = nullptr;
};

// Between host (pinned, so that it is not waited for) and device, either way; the caller goes on at once.
void CopyAsync(void* target, const void* source, size_t bytes, void* stream);
// The same for `rows` rows of row_bytes bytes each that lie target_pitch and source_pitch bytes apart.
void CopyRowsAsync(void* target, size_t target_pitch, const void* source, size_t source_pitch, size_t row_bytes,
                   size_t rows, void* stream);

// Waits for the stream; throws what its kernels failed with.
void Synchronize(void* stream = nullptr);

// Throws Error with the expression, the place and CUDA's own words when code (a cudaError_t) is not success.
void CheckCuda(int code, const char* expression, const char* file, int line);
// The same after a launch, with the kernel's name. It sees a launch that failed, not a kernel that fails later.
void CheckLaunch(const char* kernel, const char* file, int line);

}  // namespace kvscope::KVSCOPE_TWIN

#define KVSCOPE_CHECK_CUDA(expression) \
  ::kvscope::cuda::CheckCuda(static_cast<int>(expression), #expression, __FILE__, __LINE__)
