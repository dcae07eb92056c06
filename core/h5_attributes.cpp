// SPDX-License-Identifier: Apache-2.0
// The attribute half of h5.h: scalars, texts and short lists of integers. These, unlike arrays, may be converted.
#include <hdf5.h>

#include <cstring>

#include "core/error.h"
#include "core/h5.h"
#include "core/h5_internal.h"

namespace kvscope::h5 {
namespace {

constexpr uint64_t kMostTextBytes = 16 << 20;
constexpr uint64_t kMostAttributeElements = 1 << 20;

}  // namespace

void File::WriteAttribute(const std::string& object, const char* name, int64_t file_type, int64_t memory_type,
                          const std::vector<uint64_t>& extents, const void* data) {
  const Lock lock;
  const std::string place = Place(object, name);
  const Id target(Check(H5Oopen(id_.get(), object.c_str(), H5P_DEFAULT), place, "opening"));
  const std::vector<hsize_t> sizes(extents.begin(), extents.end());
  const Id space(extents.empty() ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, sizes.data(), nullptr));
  const Id attribute(Check(H5Acreate2(target.get(), name, file_type, space.get(), H5P_DEFAULT, H5P_DEFAULT), place,
                           "creating the attribute"));
  Check(H5Awrite(attribute.get(), memory_type, data), place, "writing the attribute");
}

// Texts are variable-length UTF-8, which h5py gives back as str.
void File::WriteText(const std::string& object, const char* name, std::string_view text) {
  const Lock lock;
  const Id type(H5Tcopy(H5T_C_S1));
  H5Tset_size(type.get(), H5T_VARIABLE);
  H5Tset_cset(type.get(), H5T_CSET_UTF8);
  const std::string terminated(text.substr(0, text.find('\0')));
  const char* pointer = terminated.c_str();
  WriteAttribute(object, name, type.get(), type.get(), {}, &pointer);
}

void File::WriteInteger(const std::string& object, const char* name, int64_t value) {
  WriteAttribute(object, name, H5T_STD_I64LE, H5T_NATIVE_INT64, {}, &value);
}

void File::WriteUnsigned(const std::string& object, const char* name, uint64_t value) {
  WriteAttribute(object, name, H5T_STD_U64LE, H5T_NATIVE_UINT64, {}, &value);
}

void File::WriteReal(const std::string& object, const char* name, double value) {
  WriteAttribute(object, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, {}, &value);
}

void File::WriteIntegers(const std::string& object, const char* name, const std::vector<int>& values) {
  WriteAttribute(object, name, H5T_STD_I32LE, H5T_NATIVE_INT, {values.size()}, values.data());
}

bool File::HasAttribute(const std::string& object, const char* name) const {
  const Lock lock;
  const Id target = OpenObject(object);
  return Check(H5Aexists(target.get(), name), Place(object, name), "looking it up") > 0;
}

Id File::OpenAttribute(const std::string& object, const char* name, uint64_t max_elements,
                       uint64_t* num_elements) const {
  const std::string place = Place(object, name);
  const Id target = OpenObject(object);
  if (Check(H5Aexists(target.get(), name), place, "looking it up") == 0) {
    throw Error(StrCat(place, ": attribute missing; the file is not a whole trace"));
  }
  Id attribute(Check(H5Aopen(target.get(), name, H5P_DEFAULT), place, "opening the attribute"));
  const Id space(Check(H5Aget_space(attribute.get()), place, "reading the attribute"));
  const hssize_t count = H5Sget_simple_extent_npoints(space.get());
  if (count < 0 || static_cast<uint64_t>(count) > max_elements || (max_elements == 1 && count != 1)) {
    throw Error(StrCat(place, ": attribute has ", count, " elements; expected at most ", max_elements));
  }
  *num_elements = static_cast<uint64_t>(count);
  return attribute;
}

std::string File::ReadText(const std::string& object, const char* name) const {
  const Lock lock;
  uint64_t count = 0;
  const Id attribute = OpenAttribute(object, name, 1, &count);
  const std::string place = Place(object, name);
  const Id type(Check(H5Aget_type(attribute.get()), place, "reading the attribute"));
  if (H5Tget_class(type.get()) != H5T_STRING) throw Error(StrCat(place, ": expected a text attribute"));
  if (H5Tis_variable_str(type.get()) > 0) {
    char* text = nullptr;
    Check(H5Aread(attribute.get(), type.get(), &text), place, "reading the attribute");
    const std::string copy(text ? text : "", text ? strnlen(text, kMostTextBytes) : 0);
    H5free_memory(text);
    return copy;
  }
  const size_t size = H5Tget_size(type.get());
  if (size == 0 || size > kMostTextBytes) throw Error(StrCat(place, ": text of ", size, " bytes is not usable"));
  std::string text(size, '\0');
  Check(H5Aread(attribute.get(), type.get(), text.data()), place, "reading the attribute");
  text.resize(strnlen(text.data(), size));
  return text;
}

void File::ReadNumber(const std::string& object, const char* name, bool real, int64_t memory_type, void* value) const {
  uint64_t count = 0;
  const Id attribute = OpenAttribute(object, name, 1, &count);
  const std::string place = Place(object, name);
  const Id type(Check(H5Aget_type(attribute.get()), place, "reading the attribute"));
  const H5T_class_t kind = H5Tget_class(type.get());
  if ((kind != H5T_INTEGER && !(real && kind == H5T_FLOAT)) || H5Tget_size(type.get()) > 8) {
    throw Error(StrCat(place, ": expected ", real ? "a number" : "an integer", " attribute"));
  }
  Check(H5Aread(attribute.get(), memory_type, value), place, "reading the attribute");
}

int64_t File::ReadInteger(const std::string& object, const char* name) const {
  const Lock lock;
  int64_t value = 0;
  ReadNumber(object, name, false, H5T_NATIVE_INT64, &value);
  return value;
}

uint64_t File::ReadUnsigned(const std::string& object, const char* name) const {
  const Lock lock;
  uint64_t value = 0;
  ReadNumber(object, name, false, H5T_NATIVE_UINT64, &value);
  return value;
}

double File::ReadReal(const std::string& object, const char* name) const {
  const Lock lock;
  double value = 0;
  ReadNumber(object, name, true, H5T_NATIVE_DOUBLE, &value);
  return value;
}

std::vector<int> File::ReadIntegers(const std::string& object, const char* name) const {
  const Lock lock;
  uint64_t count = 0;
  const Id attribute = OpenAttribute(object, name, kMostAttributeElements, &count);
  const std::string place = Place(object, name);
  const Id type(Check(H5Aget_type(attribute.get()), place, "reading the attribute"));
  if (H5Tget_class(type.get()) != H5T_INTEGER) throw Error(StrCat(place, ": expected integers"));
  std::vector<int> values(count);
  if (count) Check(H5Aread(attribute.get(), H5T_NATIVE_INT, values.data()), place, "reading the attribute");
  return values;
}

}  // namespace kvscope::h5
