// SPDX-License-Identifier: Apache-2.0
// Results as HDF5, laid out for h5py and other people's scripts: one data set per column, one group per row's arrays.
//
//   /                    attrs: format "kvscope.results", version [1, 0], rows, traces
//   /column/NAME         f64[rows], NaN where absent; a text column is a text list
//   /row/I/ARRAY         f32 (u8 when every value is 0 or 1), attr axes "layer,kv_head"
//   /trace/I/ARRAY       the same; /traces/run_id, /traces/path, /trace/I/attribute_names, attribute_values: text lists
//   /commands            text list
// A text list is u8[bytes] plus NAME_end u64[items]: where each text ends.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <set>

#include "core/error.h"
#include "core/h5.h"
#include "core/results.h"

namespace kvscope {
namespace {

constexpr const char* kFormat = "kvscope.results";
constexpr double kAbsent = std::numeric_limits<double>::quiet_NaN();

// ---- writing

template <typename Value>
void WriteWhole(h5::File& file, const std::string& object, h5::Type type, const h5::Extents& extents,
                const std::vector<Value>& values) {
  h5::DatasetShape shape;
  shape.type = type;
  shape.extents = extents;
  file.CreateDataset(object, shape).Write(h5::Extents(extents.size(), 0), extents, values.data());
}

void WriteTexts(h5::File& file, const std::string& object, const std::vector<std::string>& texts) {
  std::vector<uint8_t> bytes;
  std::vector<uint64_t> ends;
  for (const std::string& text : texts) {
    bytes.insert(bytes.end(), text.begin(), text.end());
    ends.push_back(bytes.size());
  }
  WriteWhole(file, object, h5::Type::kU8, {bytes.size()}, bytes);
  WriteWhole(file, object + "_end", h5::Type::kU64, {ends.size()}, ends);
}

void WriteArrays(h5::File& file, const std::string& group, const std::vector<NamedArray>& arrays) {
  for (const NamedArray& array : arrays) {
    KVSCOPE_CHECK_EQ(array.axes.size(), array.shape.size());
    const h5::Extents extents(array.shape.begin(), array.shape.end());
    const std::string object = group + "/" + array.name;
    KVSCOPE_CHECK_EQ(h5::NumElements(extents, object), array.values.size());
    bool is_flags = true;
    for (const float value : array.values) is_flags = is_flags && (value == 0 || value == 1);
    if (is_flags) {
      const std::vector<uint8_t> flags(array.values.begin(), array.values.end());
      WriteWhole(file, object, h5::Type::kU8, extents, flags);
    } else {
      WriteWhole(file, object, h5::Type::kF32, extents, array.values);
    }
    std::string axes;
    for (const std::string& axis : array.axes) axes += axes.empty() ? axis : "," + axis;
    file.WriteText(object, "axes", axes);
  }
}

void WriteColumns(h5::File& file, const Results& results) {
  file.CreateGroup("/column");
  for (const ResultColumn& column : ResultColumns()) {
    const std::string object = StrCat("/column/", column.name);
    if (column.is_text) {
      std::vector<std::string> texts;
      for (const Results::Row& row : results.rows) texts.push_back(row.figures.Text(column.name));
      WriteTexts(file, object, texts);
    } else {
      std::vector<double> numbers;
      for (const Results::Row& row : results.rows) numbers.push_back(row.figures.Number(column.name).value_or(kAbsent));
      WriteWhole(file, object, h5::Type::kF64, {numbers.size()}, numbers);
    }
  }
}

void WriteTo(h5::File& file, const Results& results) {
  file.WriteText("/", "format", kFormat);
  file.WriteIntegers("/", "version", {1, 0});
  file.WriteInteger("/", "rows", static_cast<int64_t>(results.rows.size()));
  file.WriteInteger("/", "traces", static_cast<int64_t>(results.traces.size()));
  WriteColumns(file, results);
  file.CreateGroup("/row");
  for (size_t i = 0; i < results.rows.size(); ++i) {
    if (results.rows[i].arrays.empty()) continue;
    file.CreateGroup(StrCat("/row/", i));
    WriteArrays(file, StrCat("/row/", i), results.rows[i].arrays);
  }
  file.CreateGroup("/trace");
  std::vector<std::string> run_ids, paths;
  for (size_t i = 0; i < results.traces.size(); ++i) {
    const Results::Trace& trace = results.traces[i];
    run_ids.push_back(trace.run_id);
    paths.push_back(trace.path);
    std::vector<std::string> names, values;
    for (const auto& [name, value] : trace.attributes) {
      names.push_back(name);
      values.push_back(value);
    }
    file.CreateGroup(StrCat("/trace/", i));
    WriteTexts(file, StrCat("/trace/", i, "/attribute_names"), names);
    WriteTexts(file, StrCat("/trace/", i, "/attribute_values"), values);
    WriteArrays(file, StrCat("/trace/", i), trace.arrays);
  }
  file.CreateGroup("/traces");
  WriteTexts(file, "/traces/run_id", run_ids);
  WriteTexts(file, "/traces/path", paths);
  WriteTexts(file, "/commands", results.commands);
}

// ---- reading: nothing in the file is believed, and no more memory is taken than the file has bytes

bool SaysResults(const h5::File& file) {
  return file.HasAttribute("/", "format") && file.ReadText("/", "format") == kFormat;
}

class Reader {
 public:
  Reader(const std::string& path, ReadEntries entries)
      : file_(h5::File::OpenToRead(path)), bytes_left_(file_.bytes()), entries_(entries) {
    if (!SaysResults(file_)) {
      Fail("/", "expected a results file of kvscope replay; give the file written with -o");
    }
    const std::vector<int> version = file_.ReadIntegers("/", "version");
    if (version.empty() || version[0] != 1) {
      Fail("/", StrCat("version ", version.empty() ? 0 : version[0], " is not 1; update kvscope"));
    }
  }

  Results Read() {
    Results results;
    results.rows.resize(Count("rows"));
    results.traces.resize(Count("traces"));
    names_ = file_.ListAll();
    for (const ResultColumn& column : ResultColumns()) ReadColumn(column, results.rows);
    results.commands = Texts("/commands");
    const std::vector<std::string> run_ids = Texts("/traces/run_id"), paths = Texts("/traces/path");
    if (run_ids.size() != results.traces.size() || paths.size() != results.traces.size()) {
      Fail("/traces", StrCat("expected ", results.traces.size(), " traces; the file is damaged"));
    }
    for (size_t i = 0; i < results.traces.size(); ++i) {
      Results::Trace& trace = results.traces[i];
      trace.run_id = run_ids[i];
      trace.path = paths[i];
      const std::string group = StrCat("/trace/", i);
      const std::vector<std::string> names = Texts(group + "/attribute_names");
      const std::vector<std::string> values = Texts(group + "/attribute_values");
      if (names.size() != values.size()) Fail(group, "expected as many attribute names as values; the file is damaged");
      for (size_t k = 0; k < names.size(); ++k) trace.attributes[names[k]] = values[k];
    }
    for (const std::string& name : names_) ReadArrayNamed(name, results);
    return results;
  }

 private:
  [[noreturn]] void Fail(const std::string& object, const std::string& what) const {
    throw Error(StrCat(file_.path(), ":", object, ": ", what));
  }

  size_t Count(const char* attribute) const {
    const int64_t count = file_.ReadInteger("/", attribute);
    // Every row has at least the 8 bytes of each of its numbers.
    if (count < 0 || static_cast<uint64_t>(count) > file_.bytes() / 8) {
      Fail("/", StrCat(attribute, " is ", count, ", more than the file can hold; the file is damaged"));
    }
    return static_cast<size_t>(count);
  }

  template <typename Value>
  std::vector<Value> Whole(const h5::Dataset& dataset, h5::Type type, const std::string& object) {
    if (dataset.type() != type) {
      Fail(object, StrCat("expected elements of type ", Name(type), ", found ", Name(dataset.type())));
    }
    const uint64_t num_elements = h5::NumElements(dataset.extents(), dataset.place());
    if (num_elements > bytes_left_ / sizeof(Value)) {
      Fail(object, StrCat("extents ", h5::Text(dataset.extents()), " are more than the file can hold; it is damaged"));
    }
    bytes_left_ -= num_elements * sizeof(Value);
    std::vector<Value> values(num_elements);
    dataset.Read(h5::Extents(dataset.extents().size(), 0), dataset.extents(), values.data());
    return values;
  }

  template <typename Value>
  std::vector<Value> List(const std::string& object, h5::Type type) {
    const h5::Dataset dataset = file_.OpenDataset(object);
    if (dataset.extents().size() != 1) Fail(object, "expected one dimension; the file is damaged");
    return Whole<Value>(dataset, type, object);
  }

  std::vector<std::string> Texts(const std::string& object) {
    const auto bytes = List<uint8_t>(object, h5::Type::kU8);
    const auto ends = List<uint64_t>(object + "_end", h5::Type::kU64);
    std::vector<std::string> texts;
    uint64_t begin = 0;
    for (const uint64_t end : ends) {
      if (end < begin || end > bytes.size()) Fail(object, "text ends out of order; the file is damaged");
      texts.emplace_back(bytes.begin() + static_cast<int64_t>(begin), bytes.begin() + static_cast<int64_t>(end));
      begin = end;
    }
    return texts;
  }

  void ReadColumn(const ResultColumn& column, std::vector<Results::Row>& rows) {
    const std::string object = StrCat("/column/", column.name);
    if (!file_.Exists(object)) return;  // an older file
    const auto check_size = [&](size_t size) {
      if (size != rows.size()) Fail(object, StrCat("expected ", rows.size(), " rows, found ", size));
    };
    if (column.is_text) {
      const std::vector<std::string> texts = Texts(object);
      check_size(texts.size());
      for (size_t i = 0; i < rows.size(); ++i) rows[i].figures.Set(column.name, texts[i]);
    } else {
      const auto numbers = List<double>(object, h5::Type::kF64);
      check_size(numbers.size());
      for (size_t i = 0; i < rows.size(); ++i) {
        if (std::isinf(numbers[i])) Fail(object, "expected finite numbers or NaN, found infinity");
        if (!std::isnan(numbers[i])) rows[i].figures.Set(column.name, numbers[i]);
      }
    }
  }

  // Takes names of the form /row/I/NAME and /trace/I/NAME.
  void ReadArrayNamed(const std::string& object, Results& results) {
    const bool in_row = object.starts_with("/row/"), in_trace = object.starts_with("/trace/");
    if (!in_row && !in_trace) return;
    const size_t begin = object.find('/', 1) + 1, end = object.find('/', begin);
    if (end == std::string::npos || object.find_first_of("/@", end + 1) != std::string::npos) return;
    const std::string name = object.substr(end + 1);
    if (in_trace && name.starts_with("attribute_")) return;
    if (entries_ == ReadEntries::kNone && (name == "kept" || name == "bits")) return;
    const std::string number = object.substr(begin, end - begin);
    const size_t size = in_row ? results.rows.size() : results.traces.size();
    const bool is_number = number.size() < 10 && number.find_first_not_of("0123456789") == std::string::npos;
    if (!is_number || std::stoull(number) >= size) Fail(object, StrCat("expected a number below ", size));
    auto& arrays = in_row ? results.rows[std::stoull(number)].arrays : results.traces[std::stoull(number)].arrays;
    arrays.push_back(ReadArray(object, name));
  }

  NamedArray ReadArray(const std::string& object, const std::string& name) {
    const h5::Dataset dataset = file_.OpenDataset(object);
    NamedArray array;
    array.name = name;
    array.shape.assign(dataset.extents().begin(), dataset.extents().end());
    if (dataset.type() == h5::Type::kU8) {
      const auto flags = Whole<uint8_t>(dataset, h5::Type::kU8, object);
      array.values.assign(flags.begin(), flags.end());
    } else {
      array.values = Whole<float>(dataset, h5::Type::kF32, object);
    }
    std::string axis;
    for (const char c : file_.ReadText(object, "axes") + ",") {
      if (c != ',') {
        axis += c;
        continue;
      }
      array.axes.push_back(axis);
      axis.clear();
    }
    if (array.axes.size() != array.shape.size()) Fail(object, "expected a name for each axis");
    return array;
  }

  h5::File file_;
  uint64_t bytes_left_;
  ReadEntries entries_;
  std::vector<std::string> names_;
};

}  // namespace

void WriteResults(const std::string& path, const Results& results) {
  const std::string temporary = path + ".part";
  std::remove(temporary.c_str());
  std::error_code failure;
  try {
    h5::File file = h5::File::Create(temporary);
    WriteTo(file, results);
    file.Close();
    std::filesystem::rename(temporary, path, failure);
    if (failure) throw Error(StrCat(path, ": expected to replace it, found: ", failure.message()));
  } catch (...) {
    std::remove(temporary.c_str());
    throw;
  }
}

Results ReadResults(const std::string& path, ReadEntries entries) {
  return Reader(path, entries).Read();
}

bool SaysResults(const std::string& path) {
  return SaysResults(h5::File::OpenToRead(path));
}

}  // namespace kvscope
