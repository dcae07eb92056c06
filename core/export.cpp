// SPDX-License-Identifier: Apache-2.0
#include "core/export.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

namespace kvscope {
namespace {

int IndexOf(const std::vector<int>& numbers, int wanted, const std::string& what) {
  const auto found = std::find(numbers.begin(), numbers.end(), wanted);
  if (found != numbers.end()) return static_cast<int>(found - numbers.begin());
  throw Error(StrCat(what, " ", wanted, " is not in this trace; it holds ", numbers.empty() ? 0 : numbers.front(),
                     " to ", numbers.empty() ? 0 : numbers.back(), numbers.size() < 2 ? "" : ", perhaps with gaps"));
}

std::string Csv(const RecordedRows& rows) {
  std::string out = "step,query_token,token,weight\n";
  char line[80];
  for (int step = 0; step < rows.num_steps; ++step) {
    for (int token = 0; token <= rows.row_token[step]; ++token) {
      const float weight = FloatFromHalf(rows.weights[size_t(step) * rows.num_tokens + token]);
      std::snprintf(line, sizeof line, "%d,%d,%d,%.6g\n", step, rows.row_token[step], token, weight);
      out += line;
    }
  }
  return out;
}

std::string Json(const TraceReader& trace, const RecordedRows& rows, int layer, int head) {
  nlohmann::ordered_json out;
  out["layer"] = layer;
  out["head"] = head;
  out["prompt_tokens"] = trace.info().prompt_tokens;
  out["tokens"] = trace.tokens().ids;
  out["rows"] = nlohmann::json::array();
  for (int step = 0; step < rows.num_steps; ++step) {
    std::vector<float> weights(rows.row_token[step] + 1);
    FloatsFromHalves({&rows.weights[size_t(step) * rows.num_tokens], weights.size()}, weights);
    out["rows"].push_back({{"step", step}, {"query_token", rows.row_token[step]}, {"weights", weights}});
  }
  return out.dump() + "\n";
}

// --- npz: an uncompressed zip of npy files

void Put(std::string& out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i));
}

uint32_t Crc32(const std::string& bytes) {
  static const auto table = [] {
    std::array<uint32_t, 256> entries{};
    for (uint32_t i = 0; i < 256; ++i) {
      entries[i] = i;
      for (int bit = 0; bit < 8; ++bit) entries[i] = entries[i] >> 1 ^ (entries[i] & 1 ? 0xedb88320u : 0);
    }
    return entries;
  }();
  uint32_t crc = ~0u;
  for (const char c : bytes) crc = crc >> 8 ^ table[(crc ^ static_cast<unsigned char>(c)) & 255];
  return ~crc;
}

std::string Npy(const std::string& type, const std::string& shape, const void* data, size_t bytes) {
  std::string header = StrCat("{'descr': '", type, "', 'fortran_order': False, 'shape': (", shape, "), }");
  header.append(63 - (10 + header.size()) % 64, ' ');  // the data starts at a multiple of 64
  header += '\n';
  std::string out("\x93NUMPY\x01\x00", 8);
  Put(out, header.size(), 2);
  return out + header + std::string(static_cast<const char*>(data), bytes);
}

std::string Zip(const std::vector<std::pair<std::string, std::string>>& files) {
  std::string out, directory;
  for (const auto& [name, content] : files) {
    if (out.size() + content.size() > 0xf0000000u) throw Error("npz: more than 4 GB; export fewer rows or as csv");
    const auto describe = [&, &file_name = name, &bytes = content](std::string& target) {
      Put(target, 20, 2);    // version needed
      Put(target, 0, 2);     // flags
      Put(target, 0, 2);     // stored
      Put(target, 0, 2);     // midnight ...
      Put(target, 0x21, 2);  // ... of 1 January 1980, so that equal data gives equal files
      Put(target, Crc32(bytes), 4);
      Put(target, bytes.size(), 4);
      Put(target, bytes.size(), 4);
      Put(target, file_name.size(), 2);
      Put(target, 0, 2);
    };
    const size_t offset = out.size();
    Put(out, 0x04034b50, 4);
    describe(out);
    out += name + content;
    Put(directory, 0x02014b50, 4);
    Put(directory, 20, 2);
    describe(directory);
    Put(directory, 0, 8);
    Put(directory, 0, 2);  // no comment, one disk, no attributes
    Put(directory, offset, 4);
    directory += name;
  }
  const size_t begin = out.size();
  out += directory;
  Put(out, 0x06054b50, 4);
  Put(out, 0, 4);
  Put(out, files.size(), 2);
  Put(out, files.size(), 2);
  Put(out, directory.size(), 4);
  Put(out, begin, 4);
  Put(out, 0, 2);
  return out;
}

struct HeadColumns {
  int num_rows = 0;
  std::vector<float> sum, max;
};

std::string Csv(const HeadColumns& columns) {
  std::string out = "token,sum,max\n";
  char line[80];
  for (size_t token = 0; token < columns.sum.size(); ++token) {
    std::snprintf(line, sizeof line, "%zu,%.9g,%.9g\n", token, columns.sum[token], columns.max[token]);
    out += line;
  }
  return out;
}

std::string Json(const TraceReader& trace, const HeadColumns& columns, int layer, int head) {
  nlohmann::ordered_json out;
  out["layer"] = layer;
  out["head"] = head;
  out["prompt_tokens"] = trace.info().prompt_tokens;
  out["rows"] = columns.num_rows;
  out["tokens"] = trace.tokens().ids;
  out["sum"] = columns.sum;
  out["max"] = columns.max;
  return out.dump() + "\n";
}

std::string Npz(const TraceReader& trace, const HeadColumns& columns) {
  const std::vector<int>& ids = trace.tokens().ids;
  const auto floats = [](const std::vector<float>& values) {
    return Npy("<f4", StrCat(values.size(), ","), values.data(), values.size() * sizeof(float));
  };
  return Zip({{"sum.npy", floats(columns.sum)},
              {"max.npy", floats(columns.max)},
              {"rows.npy", Npy("<i4", "1,", &columns.num_rows, sizeof(int))},
              {"token_id.npy", Npy("<i4", StrCat(ids.size(), ","), ids.data(), ids.size() * 4)}});
}

std::string Npz(const TraceReader& trace, const RecordedRows& rows) {
  const std::vector<int>& ids = trace.tokens().ids;
  return Zip({{"weights.npy", Npy("<f2", StrCat(rows.num_steps, ", ", rows.num_tokens), rows.weights.data(),
                                  rows.weights.size() * sizeof(Half))},
              {"query_token.npy", Npy("<i4", StrCat(rows.num_steps, ","), rows.row_token.data(), rows.num_steps * 4)},
              {"token_id.npy", Npy("<i4", StrCat(ids.size(), ","), ids.data(), ids.size() * 4)}});
}

// Absolute numbers of a layer and a query head to their place in the trace.
std::pair<int, int> Locate(const TraceReader& trace, int layer, int head) {
  std::vector<int> layers;
  for (const LayerInfo& info : trace.info().layers) layers.push_back(info.layer);
  const int layer_index = IndexOf(layers, layer, "layer");
  return {layer_index, IndexOf(trace.info().layers[layer_index].heads, head, "head")};
}

// One of the texts that a format asks for.
template <typename Part>
std::string Format(const TraceReader& trace, const Part& part, int layer, int head, ExportFormat format) {
  switch (format) {
    case ExportFormat::kCsv:
      return Csv(part);
    case ExportFormat::kJson:
      return Json(trace, part, layer, head);
    case ExportFormat::kNpz:
      return Npz(trace, part);
  }
  KVSCOPE_CHECK(false);
  return "";
}

}  // namespace

ExportFormat ExportFormatFromName(const std::string& name) {
  if (name == "csv") return ExportFormat::kCsv;
  if (name == "json") return ExportFormat::kJson;
  if (name == "npz") return ExportFormat::kNpz;
  throw Error(StrCat("export format '", name, "': expected csv, json or npz"));
}

std::string ExportRows(const TraceReader& trace, int layer, int head, ExportFormat format) {
  const auto [layer_index, head_index] = Locate(trace, layer, head);
  return Format(trace, trace.ReadRows(layer_index, head_index), layer, head, format);
}

std::string ExportColumns(const TraceReader& trace, int layer, int head, ExportFormat format) {
  const auto [layer_index, head_index] = Locate(trace, layer, head);
  const ColumnStatistics all = trace.ReadColumnStatistics(layer_index);
  const auto of_head = [&, index = int64_t{head_index}](const std::vector<float>& values) {
    return std::vector<float>(values.begin() + index * all.num_tokens, values.begin() + (index + 1) * all.num_tokens);
  };
  return Format(trace, HeadColumns{all.num_rows, of_head(all.sum), of_head(all.max)}, layer, head, format);
}

}  // namespace kvscope
