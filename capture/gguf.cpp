// SPDX-License-Identifier: Apache-2.0
// Metadata and tensor access; gguf_open.cpp opens files, gguf_parser.cpp checks them.
#include "capture/gguf.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "capture/gguf_format.h"
#include "core/error.h"

namespace kvscope {
namespace {

template <typename T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

}  // namespace

int64_t GgufTensor::Rows() const {
  int64_t rows = 1;
  for (size_t i = 1; i < shape.size(); ++i) rows *= shape[i];
  return rows;
}

std::string ShapeText(std::span<const int64_t> shape) {
  std::string text = "[";
  for (const int64_t extent : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
  return text + "]";
}

GgufFile::GgufFile() = default;
GgufFile::GgufFile(GgufFile&&) noexcept = default;
GgufFile& GgufFile::operator=(GgufFile&&) noexcept = default;
GgufFile::~GgufFile() = default;

std::string GgufFile::Place(std::string_view key) const {
  return StrCat(path(), ":", Printable(key));
}

std::string GgufFile::Place(const GgufTensor& tensor) const {
  return StrCat(paths_[tensor.part], ":", Printable(tensor.name));
}

const GgufFile::Value* GgufFile::FindValue(std::string_view key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? nullptr : &found->second;
}

const GgufFile::Value* GgufFile::FindArray(std::string_view key) const {
  const Value* value = FindValue(key);
  if (value && value->type != gguf::kArray) {
    throw Error(StrCat(Place(key), ": expected an array, found ", gguf::ValueTypeName(value->type),
                       "; the file was written by a program that stores this key differently, convert it again"));
  }
  return value;
}

void GgufFile::FailMissing(std::string_view key) const {
  throw Error(StrCat(Place(key), ": expected this metadata key, found none; the file is not a complete model of an ",
                     "architecture kvscope knows, convert it again with a current converter"));
}

int64_t GgufFile::IntAt(std::string_view key, uint32_t type, const std::byte* from) const {
  switch (type) {
    case gguf::kUint8:
      return Load<uint8_t>(from);
    case gguf::kInt8:
      return Load<int8_t>(from);
    case gguf::kUint16:
      return Load<uint16_t>(from);
    case gguf::kInt16:
      return Load<int16_t>(from);
    case gguf::kUint32:
      return Load<uint32_t>(from);
    case gguf::kInt32:
      return Load<int32_t>(from);
    case gguf::kInt64:
      return Load<int64_t>(from);
    case gguf::kUint64: {
      const uint64_t value = Load<uint64_t>(from);
      if (value <= static_cast<uint64_t>(INT64_MAX)) return static_cast<int64_t>(value);
      throw Error(StrCat(Place(key), ": expected at most 2^63 - 1, found ", value, "; the file is damaged"));
    }
    default:
      throw Error(StrCat(Place(key), ": expected an integer, found ", gguf::ValueTypeName(type),
                         "; the file was written by a program that stores this key differently, convert it again"));
  }
}

double GgufFile::FloatAt(std::string_view key, uint32_t type, const std::byte* from) const {
  double value = 0;
  if (type == gguf::kFloat32) {
    value = Load<float>(from);
  } else if (type == gguf::kFloat64) {
    value = Load<double>(from);
  } else {
    value = static_cast<double>(IntAt(key, type, from));
  }
  if (!std::isfinite(value)) {
    throw Error(StrCat(Place(key), ": expected a finite number, found ", value, "; the file is damaged"));
  }
  return value;
}

bool GgufFile::Has(std::string_view key) const {
  return FindValue(key) != nullptr;
}

bool GgufFile::HasArray(std::string_view key) const {
  const Value* value = FindValue(key);
  return value && value->type == gguf::kArray;
}

std::optional<int64_t> GgufFile::Int(std::string_view key) const {
  const Value* value = FindValue(key);
  if (!value) return std::nullopt;
  return IntAt(key, value->type, value->bytes.data());
}

std::optional<double> GgufFile::Float(std::string_view key) const {
  const Value* value = FindValue(key);
  if (!value) return std::nullopt;
  return FloatAt(key, value->type, value->bytes.data());
}

std::optional<bool> GgufFile::Bool(std::string_view key) const {
  const Value* value = FindValue(key);
  if (!value) return std::nullopt;
  if (value->type == gguf::kBool) return Load<uint8_t>(value->bytes.data()) != 0;
  throw Error(StrCat(Place(key), ": expected true or false, found ", gguf::ValueTypeName(value->type),
                     "; the file was written by a program that stores this key differently, convert it again"));
}

std::optional<std::string_view> GgufFile::String(std::string_view key) const {
  const Value* value = FindValue(key);
  if (!value) return std::nullopt;
  if (value->type == gguf::kString) return gguf::TextAt(value->bytes.data());
  throw Error(StrCat(Place(key), ": expected a text, found ", gguf::ValueTypeName(value->type),
                     "; the file was written by a program that stores this key differently, convert it again"));
}

std::optional<std::vector<std::string_view>> GgufFile::StringArray(std::string_view key) const {
  const Value* value = FindArray(key);
  if (!value) return std::nullopt;
  std::vector<std::string_view> texts;
  if (value->count == 0) return texts;
  if (value->element_type != gguf::kString) {
    throw Error(StrCat(Place(key), ": expected an array of texts, found an array of ",
                       gguf::ValueTypeName(value->element_type), "; the file is damaged or from another format"));
  }
  texts.reserve(value->count);
  const std::byte* from = value->bytes.data();
  for (uint64_t i = 0; i < value->count; ++i) {
    texts.push_back(gguf::TextAt(from));
    from += 8 + texts.back().size();
  }
  return texts;
}

std::optional<std::vector<int64_t>> GgufFile::IntArray(std::string_view key) const {
  const Value* value = FindArray(key);
  if (!value) return std::nullopt;
  std::vector<int64_t> numbers(value->count);
  const size_t stride = gguf::ScalarBytes(value->element_type);
  for (size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = IntAt(key, value->element_type, value->bytes.data() + i * stride);
  }
  return numbers;
}

std::optional<std::vector<double>> GgufFile::FloatArray(std::string_view key) const {
  const Value* value = FindArray(key);
  if (!value) return std::nullopt;
  std::vector<double> numbers(value->count);
  const size_t stride = gguf::ScalarBytes(value->element_type);
  for (size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = FloatAt(key, value->element_type, value->bytes.data() + i * stride);
  }
  return numbers;
}

std::optional<std::vector<bool>> GgufFile::BoolArray(std::string_view key) const {
  const Value* value = FindArray(key);
  if (!value) return std::nullopt;
  if (value->element_type != gguf::kBool) {
    throw Error(StrCat(Place(key), ": expected an array of truth values, found an array of ",
                       gguf::ValueTypeName(value->element_type), "; the file is damaged or from another format"));
  }
  std::vector<bool> truths(value->count);
  for (size_t i = 0; i < truths.size(); ++i) truths[i] = Load<uint8_t>(value->bytes.data() + i) != 0;
  return truths;
}

int64_t GgufFile::RequireInt(std::string_view key) const {
  if (!Has(key)) FailMissing(key);
  return *Int(key);
}

int64_t GgufFile::RequireIntIn(std::string_view key, int64_t low, int64_t high) const {
  const int64_t value = RequireInt(key);
  if (value >= low && value <= high) return value;
  throw Error(StrCat(Place(key), ": expected a number from ", low, " to ", high, ", found ", value,
                     "; the file is damaged or describes a model beyond kvscope's limits"));
}

double GgufFile::RequireFloat(std::string_view key) const {
  if (!Has(key)) FailMissing(key);
  return *Float(key);
}

std::string_view GgufFile::RequireString(std::string_view key) const {
  if (!Has(key)) FailMissing(key);
  return *String(key);
}

std::vector<std::string_view> GgufFile::RequireStringArray(std::string_view key) const {
  if (!Has(key)) FailMissing(key);
  return *StringArray(key);
}

std::vector<int64_t> GgufFile::RequireIntArray(std::string_view key) const {
  if (!Has(key)) FailMissing(key);
  return *IntArray(key);
}

std::vector<std::string> GgufFile::Keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : values_) keys.push_back(key);
  return keys;
}

const GgufTensor* GgufFile::Find(std::string_view name) const {
  const auto found = tensor_from_name_.find(name);
  return found == tensor_from_name_.end() ? nullptr : &tensors_[found->second];
}

const GgufTensor& GgufFile::RequireTensor(std::string_view name, std::span<const int64_t> shape) const {
  const GgufTensor* tensor = Find(name);
  if (!tensor) {
    throw Error(StrCat(Place(name), ": expected this tensor with shape ", ShapeText(shape),
                       ", found none; the file is not a complete model of this architecture, convert it again"));
  }
  if (!std::equal(shape.begin(), shape.end(), tensor->shape.begin(), tensor->shape.end())) {
    throw Error(StrCat(Place(*tensor), ": expected shape ", ShapeText(shape), ", found ", ShapeText(tensor->shape),
                       "; metadata and tensors disagree, convert the model again"));
  }
  if (!IsReadable(tensor->type)) {
    throw Error(StrCat(Place(*tensor), ": expected ", ReadableGgufTypeNames(), ", found ", GgufTypeName(tensor->type),
                       "; use a file of the same model in one of those types"));
  }
  return *tensor;
}

void GgufFile::Dequantize(const GgufTensor& tensor, int64_t first_row, std::span<float> out) const {
  RequireTensor(tensor.name, tensor.shape);
  const int64_t cols = tensor.Cols();
  const int64_t rows = static_cast<int64_t>(out.size()) / cols;
  KVSCOPE_CHECK_EQ(static_cast<int64_t>(out.size()), rows * cols);
  KVSCOPE_CHECK_LE(0, first_row);
  KVSCOPE_CHECK_LE(first_row, tensor.Rows() - rows);
  const int64_t row_bytes = GgufRowBytes(tensor.type, cols);
  const std::byte* from = tensor.data.data() + first_row * row_bytes;
  DequantizeRow(tensor.type, from, out);
  // In integers, because a compiler may vectorise an OR but not a float sum: all exponent bits set is NaN or infinity.
  uint32_t any_bad = 0;
  for (const float value : out) any_bad |= (std::bit_cast<uint32_t>(value) & 0x7f800000u) == 0x7f800000u;
  if (any_bad) {
    const auto bad = std::find_if(out.begin(), out.end(), [](float value) { return !std::isfinite(value); });
    const int64_t at = bad - out.begin();
    throw Error(StrCat(Place(tensor), ": expected finite weights, found ", *bad, " at row ", first_row + at / cols,
                       ", column ", at % cols, "; the file is damaged, fetch it again"));
  }
}

}  // namespace kvscope
