// SPDX-License-Identifier: Apache-2.0
// kernels/device.h as the emulation has it. With threads in forward order every stream does its work at once, as an
// idle device would. In backward order it does nothing until somebody waits for it, and then no more than was waited
// for: a copy that nobody waited for, a buffer that is used again too early or an argument that a graph should have
// read anew shows as a wrong number. Memory begins as NaN.
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "core/error.h"
#include "tests/support/kernels_fibres.h"

namespace kvscope::fibres {
namespace {

struct StreamState {
  std::deque<std::function<void()>> work;
  uint64_t given = 0, done = 0;  // pieces of work
  std::vector<std::function<void()>>* recording = nullptr;
};
struct EventState {
  StreamState* stream = nullptr;
  uint64_t ticket = 0;  // over when the stream has done so much
};
struct GraphState {
  std::vector<std::function<void()>> work;
};

std::recursive_mutex mutex;  // fibres run one launch at a time, whoever waits for it
std::vector<StreamState*> streams;
std::deque<StreamState> all_streams;  // dead ones too: events that outlive their stream still name it

void RunUntil(StreamState& stream, uint64_t ticket) {
  while (stream.done < ticket) {
    const std::function<void()> work = std::move(stream.work.front());
    stream.work.pop_front();
    ++stream.done;
    work();
  }
}

void RunAll() {
  for (StreamState* const stream : streams) RunUntil(*stream, stream->given);
}

}  // namespace

void Enqueue(void* stream, std::function<void()> work) {
  const std::lock_guard lock(mutex);
  if (!stream) return work();
  auto& state = *static_cast<StreamState*>(stream);
  if (state.recording) {
    state.recording->push_back(std::move(work));
    return;
  }
  state.work.push_back(std::move(work));
  ++state.given;
  if (IsEager()) RunUntil(state, state.given);
}

}  // namespace kvscope::fibres

namespace kvscope::cuda_emulated {

using fibres::EventState;
using fibres::GraphState;
using fibres::StreamState;

bool IsAvailable() {
  return true;
}
int DeviceCount() {
  return 1;
}
int DeviceInUse() {
  return 0;
}
void UseDevice(int) {}
std::string DeviceName() {
  return "emulated";
}
size_t FreeDeviceBytes() {
  return size_t{1} << 30;
}

DeviceBuffer::DeviceBuffer(size_t bytes)
    : data_(bytes > 0 ? std::aligned_alloc(256, (bytes + 255) / 256 * 256) : nullptr), bytes_(bytes) {
  if (data_) std::memset(data_, 0xff, bytes);
}
DeviceBuffer::~DeviceBuffer() {
  const std::lock_guard lock(fibres::mutex);
  if (!data_) return;
  fibres::RunAll();  // as cudaFree does
  std::free(data_);
}
void DeviceBuffer::CopyFromHost(const void* source, size_t bytes, void* stream) {
  KVSCOPE_CHECK_LE(bytes, bytes_);
  CopyAsync(data_, source, bytes, stream);
  Synchronize(stream);
}
void DeviceBuffer::CopyToHost(void* target, size_t bytes, void* stream) const {
  KVSCOPE_CHECK_LE(bytes, bytes_);
  CopyAsync(target, data_, bytes, stream);
  Synchronize(stream);
}
void DeviceBuffer::Clear(void* stream) {
  fibres::Enqueue(stream, [data = data_, bytes = bytes_] { std::memset(data, 0, bytes); });
}

PinnedBuffer::PinnedBuffer(size_t bytes) : data_(std::malloc(bytes)), bytes_(bytes) {
  std::memset(data_, 0xff, bytes);
}
PinnedBuffer::~PinnedBuffer() {
  std::free(data_);
}

Stream::Stream() {
  const std::lock_guard lock(fibres::mutex);
  auto* const state = &fibres::all_streams.emplace_back();
  fibres::streams.push_back(state);
  stream_ = state;
}
Stream::~Stream() {
  const std::lock_guard lock(fibres::mutex);
  auto* const state = static_cast<StreamState*>(stream_);
  fibres::RunUntil(*state, state->given);
  std::erase(fibres::streams, state);
}

Event::Event() : event_(new EventState) {}
Event::~Event() {
  delete static_cast<EventState*>(event_);
}
void Event::Record(void* stream) {
  const std::lock_guard lock(fibres::mutex);
  auto* const state = static_cast<StreamState*>(stream);
  *static_cast<EventState*>(event_) = {state, state->given};
}
void Event::Delay(void* stream) const {
  const EventState event = *static_cast<EventState*>(event_);
  if (event.stream) fibres::Enqueue(stream, [event] { fibres::RunUntil(*event.stream, event.ticket); });
}
void Event::Synchronize() const {
  const std::lock_guard lock(fibres::mutex);
  const EventState event = *static_cast<EventState*>(event_);
  if (event.stream) fibres::RunUntil(*event.stream, event.ticket);
}

Graph::Graph(const std::function<void(void* stream)>& record) {
  StreamState state;
  auto graph = std::make_unique<GraphState>();
  state.recording = &graph->work;
  record(&state);
  graph_ = graph.release();
}
Graph::~Graph() {
  delete static_cast<GraphState*>(graph_);
}
void Graph::Launch(void* stream) const {
  for (const auto& work : static_cast<GraphState*>(graph_)->work) fibres::Enqueue(stream, work);
}

void CopyAsync(void* target, const void* source, size_t bytes, void* stream) {
  fibres::Enqueue(stream, [=] { std::memcpy(target, source, bytes); });
}
void CopyRowsAsync(void* target, size_t target_pitch, const void* source, size_t source_pitch, size_t row_bytes,
                   size_t rows, void* stream) {
  fibres::Enqueue(stream, [=] {
    for (size_t row = 0; row < rows; ++row)
      std::memcpy(static_cast<std::byte*>(target) + row * target_pitch,
                  static_cast<const std::byte*>(source) + row * source_pitch, row_bytes);
  });
}

void Synchronize(void* stream) {
  const std::lock_guard lock(fibres::mutex);
  if (!stream) return fibres::RunAll();
  auto* const state = static_cast<StreamState*>(stream);
  fibres::RunUntil(*state, state->given);
}

}  // namespace kvscope::cuda_emulated
