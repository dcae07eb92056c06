// SPDX-License-Identifier: Apache-2.0
// One-dimensional data sets of a trace that grow: numbers, and texts as bytes plus offsets. Both directions, for the
// trace writer and reader only.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/h5.h"

namespace kvscope {

template <typename Element>
constexpr h5::Type TypeOf();
template <>
constexpr h5::Type TypeOf<uint8_t>() {
  return h5::Type::kU8;
}
template <>
constexpr h5::Type TypeOf<int>() {
  return h5::Type::kI32;
}
template <>
constexpr h5::Type TypeOf<int64_t>() {
  return h5::Type::kI64;
}
template <>
constexpr h5::Type TypeOf<float>() {
  return h5::Type::kF32;
}
template <>
constexpr h5::Type TypeOf<double>() {
  return h5::Type::kF64;
}

template <typename Element>
class Column {
 public:
  Column() = default;
  Column(h5::File& file, const std::string& object, uint64_t chunk)
      : dataset_(file.CreateDataset(object, {TypeOf<Element>(), {0}, {h5::kUnlimited}, {chunk}, false})) {}

  uint64_t size() const { return dataset_.extents()[0]; }
  // Grows when the end lies behind the present one.
  void Write(uint64_t first, std::span<const Element> values) {
    if (first + values.size() > size()) dataset_.SetExtents({first + values.size()});
    dataset_.Write({first}, {values.size()}, values.data());
  }
  void Append(std::span<const Element> values) { Write(size(), values); }
  void Append(Element value) { Append(std::span<const Element>(&value, 1)); }
  void Replace(std::span<const Element> values) {
    Write(0, values);
    dataset_.SetExtents({values.size()});
  }

 private:
  h5::Dataset dataset_;
};

class TextColumn {
 public:
  TextColumn() = default;
  // object: without the suffixes _bytes and _offsets.
  TextColumn(h5::File& file, const std::string& object, uint64_t chunk);
  void Append(std::span<const std::string> texts);
  void Replace(std::span<const std::string> texts);

 private:
  Column<uint8_t> bytes_;
  Column<int64_t> offsets_;
};

// How much a reader believes. A file still being written, or left by a kill, may have columns of unequal length.
enum class Trust { kWhole, kGrowing };

// Opens a data set and checks type and rank, and that its elements are really in the file.
h5::Dataset OpenChecked(const h5::File& file, const std::string& object, h5::Type type, size_t rank);

template <typename Element>
std::vector<Element> ReadColumn(const h5::Dataset& dataset) {
  std::vector<Element> values(dataset.extents()[0]);
  dataset.Read({0}, {values.size()}, values.data());
  return values;
}
template <typename Element>
std::vector<Element> ReadColumn(const h5::File& file, const std::string& object) {
  return ReadColumn<Element>(OpenChecked(file, object, TypeOf<Element>(), 1));
}

std::vector<std::string> ReadTexts(const h5::File& file, const std::string& object, Trust trust);

// The common length of columns: all the same, or the shortest when growing.
uint64_t CommonLength(const std::string& place, std::initializer_list<uint64_t> lengths, Trust trust);

}  // namespace kvscope
