// SPDX-License-Identifier: Apache-2.0
// links: kvscope_core
// Any bytes as a trace file: refused with an Error, or everything in it can be read.
//
// Random bytes rarely get past HDF5's checksums, and HDF5 itself is not under test (the reader probes unknown files in
// a child process). So most inputs are a list of changes to the objects of a sound trace, written as sound HDF5: other
// values, other types, other extents, objects missing. What this program's own reader believes is attacked directly.
#include <fuzzer/FuzzedDataProvider.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/h5.h"
#include "core/probe.h"
#include "core/trace_reader.h"
#include "core/trace_summary.h"
#include "core/trace_writer.h"

namespace kvscope {
namespace {

struct Object {
  enum Kind { kGroup, kDataset, kText, kIntegers, kReal } kind = kGroup;
  std::string path, attribute, text;
  std::vector<int> integers;
  double real = 0;
  h5::DatasetShape shape;
  std::string bytes;
};

std::string Folder() {
  return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
}
std::string FuzzPath(const char* name) {
  return StrCat(Folder(), "/kvscope_fuzz_", getpid(), name);
}

TraceInfo SoundInfo() {
  TraceInfo info;
  info.run_id = "fuzz";
  info.model.num_layers = 2;
  info.model.query_rows = "all";
  info.rope_sets.push_back({"default", {1.0, 0.5}, 1.0});
  for (int i = 0; i < 2; ++i) {
    LayerInfo layer;
    layer.layer = i;
    layer.num_heads = 2;
    layer.num_kv_heads = 1;
    layer.head_dim_k = layer.head_dim_v = 4;
    layer.scale = 0.5f;
    layer.heads = {0, 1};
    layer.kv_heads = {0};
    info.layers.push_back(layer);
  }
  info.prompt_tokens = 3;
  info.segments.push_back({"context", 0, 0, 3, true});
  info.spans.push_back({"needle", 1, 2, "label"});
  info.task.expected_answers = {"one", "two"};
  return info;
}

void WriteSoundTrace(const std::string& path) {
  TraceWriter writer(path, SoundInfo(), {.flush_interval_secs = 1, .overwrite = true});
  for (int layer = 0; layer < 2; ++layer) {
    writer.AppendChunk(
        layer, 0,
        {4, Buffer(DType::kF16, 32), Buffer(DType::kF16, 16), Buffer(DType::kF16, 16), std::vector<float>(8, 1.0f)});
    writer.AppendRows(layer, 3, std::vector<Half>(8));
  }
  writer.AppendTokens({{1, 2, 3, 4}, {}, {"a", "b", "c", "d"}, {}});
  writer.AppendStep({1, 2, {3, 4}, {-1, -2}, 0, 0});
  writer.SetAnswer({"answer", 1.0});
  writer.Finish();
}

Object Load(const h5::File& file, const std::string& name) {
  Object object;
  const size_t at = name.find('@');
  object.path = name.substr(0, at);
  if (at != std::string::npos) {
    object.attribute = name.substr(at + 1);
    const char* attribute = object.attribute.c_str();
    try {
      object.text = file.ReadText(object.path, attribute);
      object.kind = Object::kText;
    } catch (const Error&) {
      try {
        object.integers = file.ReadIntegers(object.path, attribute);
        object.kind = Object::kIntegers;
      } catch (const Error&) {
        object.real = file.ReadReal(object.path, attribute);
        object.kind = Object::kReal;
      }
    }
    return object;
  }
  try {
    const h5::Dataset dataset = file.OpenDataset(name);
    object.kind = Object::kDataset;
    object.shape = {dataset.type(), dataset.extents(), {}, {}, false};
    object.bytes.resize(h5::NumElements(dataset.extents(), name) * h5::ElementBytes(dataset.type()));
    dataset.Read(h5::Extents(dataset.extents().size(), 0), dataset.extents(), object.bytes.data());
  } catch (const Error&) {
    object.kind = Object::kGroup;
  }
  return object;
}

const std::vector<Object>& SoundObjects() {
  static const std::vector<Object> objects = [] {
    const std::string path = FuzzPath("_sound");
    WriteSoundTrace(path);
    std::vector<Object> list;
    {
      const h5::File file = h5::File::OpenToRead(path);
      for (const std::string& name : file.ListAll()) list.push_back(Load(file, name));
    }
    unlink(path.c_str());
    return list;
  }();
  return objects;
}

double AnyReal(FuzzedDataProvider& data) {
  return data.PickValueInArray({0.0, -1.0, 1e300, std::numeric_limits<double>::infinity(),
                                std::numeric_limits<double>::quiet_NaN(), data.ConsumeFloatingPoint<double>()});
}

// Returns false when the object is to be left out.
bool Change(Object& object, FuzzedDataProvider& data) {
  switch (data.ConsumeIntegralInRange(0, 5)) {
    case 0:
      return false;
    case 1:  // other values
      object.text = data.ConsumeRandomLengthString(40);
      object.real = AnyReal(data);
      for (int& value : object.integers) value = data.ConsumeIntegral<int>();
      for (int i = 0; i < 8 && !object.bytes.empty(); ++i) {
        object.bytes[data.ConsumeIntegralInRange<size_t>(0, object.bytes.size() - 1)] = data.ConsumeIntegral<char>();
      }
      return true;
    case 2:  // another type
      if (object.kind == Object::kDataset) {
        object.shape.type = static_cast<h5::Type>(data.ConsumeIntegralInRange(0, 6));
      } else if (object.kind != Object::kGroup) {
        object.kind = static_cast<Object::Kind>(data.ConsumeIntegralInRange<int>(Object::kText, Object::kReal));
      }
      return true;
    case 3:  // other extents
      for (uint64_t& extent : object.shape.extents) {
        if (data.ConsumeBool()) extent = data.ConsumeIntegralInRange<uint64_t>(0, 6);
      }
      object.integers.resize(data.ConsumeIntegralInRange<size_t>(0, 5), 1);
      return true;
    case 4:  // promises much, holds nothing
      for (uint64_t& extent : object.shape.extents)
        extent = data.ConsumeIntegralInRange<uint64_t>(1, uint64_t{1} << 40);
      object.shape.chunk.assign(object.shape.extents.size(), 64);
      object.bytes.clear();
      return true;
    default:  // another rank
      object.shape.extents.resize(data.ConsumeIntegralInRange<size_t>(1, 5), 2);
      return true;
  }
}

void Store(h5::File& file, const Object& object) {
  const char* attribute = object.attribute.c_str();
  switch (object.kind) {
    case Object::kGroup:
      if (object.path != "/") file.CreateGroup(object.path);
      return;
    case Object::kText:
      return file.WriteText(object.path, attribute, object.text);
    case Object::kIntegers:
      return file.WriteIntegers(object.path, attribute, object.integers);
    case Object::kReal:
      return file.WriteReal(object.path, attribute, object.real);
    case Object::kDataset:
      break;
  }
  h5::Dataset dataset = file.CreateDataset(object.path, object.shape);
  if (object.bytes.empty()) return;
  std::string bytes = object.bytes;
  bytes.resize(h5::NumElements(object.shape.extents, object.path) * h5::ElementBytes(object.shape.type));
  dataset.Write(h5::Extents(object.shape.extents.size(), 0), object.shape.extents, bytes.data());
}

void WriteChanged(const std::string& path, FuzzedDataProvider& data) {
  std::vector<Object> objects = SoundObjects();
  std::vector<bool> kept(objects.size(), true);
  for (int i = data.ConsumeIntegralInRange(0, 6); i > 0; --i) {
    const size_t which = data.ConsumeIntegralInRange<size_t>(0, objects.size() - 1);
    kept[which] = Change(objects[which], data);
  }
  h5::File file = h5::File::Create(path);
  for (size_t i = 0; i < objects.size(); ++i) {
    if (!kept[i]) continue;
    try {
      Store(file, objects[i]);
    } catch (const Error&) {
      // What HDF5 cannot store (an object in a group left out) is left out as well.
    }
  }
  file.Close();
}

void ReadEverything(const std::string& path) {
  const auto trace = TraceReader::Open(path);
  for (int layer = 0; layer < static_cast<int>(trace->info().layers.size()); ++layer) {
    const LayerInfo& info = trace->info().layers[layer];
    try {
      for (int i = 0; i < static_cast<int>(info.kv_heads.size()); ++i) trace->ReadKvHead(layer, i);
    } catch (const Error&) {
    }
    for (int i = 0; trace->HasRows() && i < static_cast<int>(info.heads.size()); ++i) trace->ReadRows(layer, i);
  }
  SummaryText(path, *trace);
  SummaryJson(path, *trace);
  VerifyTrace(*trace, 2);
}

}  // namespace
}  // namespace kvscope

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace kvscope;
  FuzzedDataProvider data(bytes, size);
  const std::string path = FuzzPath("");
  unlink(path.c_str());
  try {
    if (data.ConsumeIntegralInRange(0, 255) == 255) {  // raw bytes: HDF5 may crash on them, so in a child first
      const std::string raw = data.ConsumeRemainingBytesAsString();
      std::ofstream(path, std::ios::binary).write(raw.data(), static_cast<std::streamsize>(raw.size()));
      ProbeTraceInChild(path);
    } else {
      WriteChanged(path, data);
    }
    ReadEverything(path);
  } catch (const Error&) {
  }
  unlink(path.c_str());
  return 0;
}
