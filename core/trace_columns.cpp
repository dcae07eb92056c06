// SPDX-License-Identifier: Apache-2.0
#include "core/trace_columns.h"

#include <algorithm>

#include "core/error.h"
#include "core/trace_schema.h"

namespace kvscope {

TextColumn::TextColumn(h5::File& file, const std::string& object, uint64_t chunk)
    : bytes_(file, object + schema::kBytes, chunk * 8), offsets_(file, object + schema::kOffsets, chunk) {
  offsets_.Append(0);
}

void TextColumn::Append(std::span<const std::string> texts) {
  std::string bytes;
  std::vector<int64_t> offsets;
  for (const std::string& text : texts) {
    bytes += text;
    offsets.push_back(static_cast<int64_t>(bytes_.size() + bytes.size()));
  }
  bytes_.Append({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  offsets_.Append(offsets);
}

void TextColumn::Replace(std::span<const std::string> texts) {
  std::string bytes;
  std::vector<int64_t> offsets{0};
  for (const std::string& text : texts) {
    bytes += text;
    offsets.push_back(static_cast<int64_t>(bytes.size()));
  }
  bytes_.Replace({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  offsets_.Replace(offsets);
}

h5::Dataset OpenChecked(const h5::File& file, const std::string& object, h5::Type type, size_t rank) {
  h5::Dataset dataset = file.OpenDataset(object);
  if (dataset.type() != type) {
    throw Error(StrCat(dataset.place(), ": expected elements of type ", h5::Name(type), ", found ",
                       h5::Name(dataset.type()), "; write the trace with that type"));
  }
  if (dataset.extents().size() != rank) {
    throw Error(StrCat(dataset.place(), ": expected ", rank, " dimensions, found ", h5::Text(dataset.extents())));
  }
  dataset.CheckStored();
  return dataset;
}

std::vector<std::string> ReadTexts(const h5::File& file, const std::string& object, Trust trust) {
  const std::vector<int64_t> offsets = ReadColumn<int64_t>(file, object + schema::kOffsets);
  const std::vector<uint8_t> bytes = ReadColumn<uint8_t>(file, object + schema::kBytes);
  std::vector<std::string> texts;
  for (size_t i = 0; i + 1 < offsets.size(); ++i) {
    const int64_t begin = offsets[i], end = offsets[i + 1];
    if (begin < 0 || end < begin || end > static_cast<int64_t>(bytes.size())) {
      if (trust == Trust::kGrowing) break;
      throw Error(StrCat(file.path(), ":", object, schema::kOffsets, ": text ", i, " expected within 0..", bytes.size(),
                         ", found ", begin, "..", end, "; the file is damaged"));
    }
    texts.emplace_back(bytes.begin() + begin, bytes.begin() + end);
  }
  return texts;
}

uint64_t CommonLength(const std::string& place, std::initializer_list<uint64_t> lengths, Trust trust) {
  const auto [shortest, longest] = std::minmax(lengths);
  if (shortest != longest && trust == Trust::kWhole) {
    throw Error(
        StrCat(place, ": columns of one length expected, found ", shortest, " and ", longest, "; the file is damaged"));
  }
  return shortest;
}

}  // namespace kvscope
