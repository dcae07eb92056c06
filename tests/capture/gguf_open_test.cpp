// SPDX-License-Identifier: Apache-2.0
// One file or the parts of a split model, and the memory that reading them takes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "capture/gguf.h"
#include "capture/model.h"
#include "core/error.h"
#include "core/sha256.h"
#include "tests/support/capture_tiny_gguf.h"
#include "tests/support/core_message.h"

namespace kvscope {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

const std::string kNames[] = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"};

using Files = std::map<std::string, std::string_view>;

// Three parts in memory that a test may spoil.
class SplitModel : public testing::Test {
 protected:
  SplitModel() {
    const std::vector<std::string> parts = TinyGguf({.head_dim = 16}).Parts(3);
    for (size_t i = 0; i < parts.size(); ++i) files_[kNames[i]] = parts[i];
  }
  GgufFile Open(const std::string& name) const {
    return GgufFile::FromBytes(name, Files(files_.begin(), files_.end()));
  }
  std::string Message(const std::string& name = kNames[0]) const {
    return MessageOf([&] { Open(name); });
  }
  // A part with these keys and one tensor of one weight.
  static std::string Part(int number, int count, int num_tensors, const std::string& tensor, float weight = 1) {
    GgufBuilder file;
    file.AddSplit(number, count, num_tensors);
    if (!tensor.empty()) file.AddTensor(tensor, GgufType::kF32, {1}, {reinterpret_cast<const char*>(&weight), 4});
    return file.Bytes();
  }
  static std::string TwoParts(const std::string& first, const std::string& second) {
    const std::string names[] = {"two-00001-of-00002.gguf", "two-00002-of-00002.gguf"};
    return MessageOf([&] { GgufFile::FromBytes(names[0], Files{{names[0], first}, {names[1], second}}); });
  }

  std::map<std::string, std::string> files_;
};

std::vector<float> Weights(const GgufFile& gguf, const GgufTensor& tensor) {
  std::vector<float> weights(tensor.Cols() * tensor.Rows());
  gguf.Dequantize(tensor, 0, weights);
  return weights;
}

TEST_F(SplitModel, IsWholeThroughAnyOfItsParts) {
  const GgufFile whole = GgufFile::FromBytes("m.gguf", TinyGgufBytes({.head_dim = 16}));
  for (const std::string& name : kNames) {
    const GgufFile split = Open(name);
    EXPECT_THAT(split.paths(), testing::ElementsAreArray(kNames));
    EXPECT_EQ(split.path(), kNames[0]);
    EXPECT_THAT(split.Keys(), SizeIs(whole.Keys().size() + 3));
    EXPECT_EQ(split.RequireString("general.name"), "tiny llama");
    ASSERT_EQ(split.tensors().size(), whole.tensors().size());
    for (const GgufTensor& tensor : whole.tensors()) {
      const GgufTensor& found = split.RequireTensor(tensor.name, tensor.shape);
      EXPECT_EQ(Weights(split, found), Weights(whole, tensor)) << tensor.name;
    }
    EXPECT_NO_THROW(LoadModel(split));
  }
}

TEST_F(SplitModel, OpensFromAFolderAndHashesAllParts) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "kvscope_split";
  std::filesystem::create_directories(folder);
  std::string digests;
  int64_t bytes = 0;
  for (const auto& [name, content] : files_) {
    std::ofstream(folder / name, std::ios::binary) << content;
    digests += HexSha256(std::as_bytes(std::span(content))) + "\n";
    bytes += static_cast<int64_t>(content.size());
  }
  const GgufFile gguf = GgufFile::Open(folder / kNames[1]);
  EXPECT_EQ(gguf.paths()[2], folder / kNames[2]);
  EXPECT_EQ(gguf.file_bytes(), bytes);
  EXPECT_EQ(gguf.HexSha256OfFiles(), HexSha256(std::as_bytes(std::span(digests))));

  std::filesystem::remove(folder / kNames[2]);
  EXPECT_EQ(MessageOf([&] { GgufFile::Open(folder / kNames[0]); }),
            StrCat((folder / kNames[2]).string(), ": expected part 3 of the 3 of this model, found: No such file or ",
                   "directory; fetch all parts into one folder"));
  std::filesystem::remove_all(folder);
}

TEST_F(SplitModel, HashesOneFileAsItIs) {
  const std::string bytes = TinyGgufBytes();
  const std::string path = WriteTempFile("hash.gguf", bytes);
  EXPECT_EQ(GgufFile::Open(path).HexSha256OfFiles(), HexSha256(std::as_bytes(std::span(bytes))));
}

TEST_F(SplitModel, IsOneFileWhenItCountsOneOrNone) {
  for (const int count : {0, 1}) {
    const GgufFile gguf = GgufFile::FromBytes("any name", Part(0, count, 1, "t"));
    EXPECT_THAT(gguf.paths(), ElementsAre("any name"));
  }
}

TEST_F(SplitModel, NamesAMissingPart) {
  files_.erase(kNames[1]);
  EXPECT_EQ(Message(),
            "m-00002-of-00003.gguf: expected part 2 of the 3 of this model, found: nothing; fetch all parts "
            "into one folder");
}

TEST_F(SplitModel, RefusesANameThatDoesNotSayWhichPartItIs) {
  files_["m.gguf"] = files_[kNames[1]];
  EXPECT_EQ(Message("m.gguf"),
            "m.gguf: expected a name that ends in -00002-of-00003.gguf, for the file is part 2 of a "
            "model in 3; give all parts the names they were published with");
  files_[kNames[0]] = files_[kNames[1]];
  EXPECT_THAT(Message(), HasSubstr("m-00001-of-00003.gguf: expected a name that ends in -00002-of-00003.gguf"));
}

TEST_F(SplitModel, RefusesAPartInAnothersPlace) {
  std::swap(files_[kNames[1]], files_[kNames[2]]);
  EXPECT_EQ(Message(),
            "m-00002-of-00003.gguf:split.no: expected 1 as the other parts say, found 2; the file is part of "
            "another model or bears a wrong name, fetch all parts again");
}

TEST_F(SplitModel, RefusesPartsThatCountOtherwise) {
  EXPECT_THAT(TwoParts(Part(0, 2, 2, "a"), Part(1, 3, 2, "b")),
              HasSubstr("two-00002-of-00002.gguf:split.count: expected 2 as the other parts say, found 3"));
  EXPECT_THAT(TwoParts(Part(0, 2, 2, "a"), Part(1, 2, 9, "b")),
              HasSubstr("two-00002-of-00002.gguf:split.tensors.count: expected 2 as the other parts say, found 9"));
  EXPECT_THAT(TwoParts(Part(0, 2, 2, "a"), Part(1, 2, 2, "")),
              HasSubstr("two-00001-of-00002.gguf:split.tensors.count: expected 2 tensors in the 2 parts, found 1"));
  EXPECT_THAT(TwoParts(Part(2, 2, 2, "a"), ""), HasSubstr("split.no: expected a number from 0 to 1, found 2"));
  EXPECT_THAT(TwoParts(Part(0, 2, 2, "a"), GgufBuilder().Bytes()),
              HasSubstr("two-00002-of-00002.gguf:split.no: expected this metadata key, found none"));
  EXPECT_EQ(TwoParts(Part(0, 2, 2, "a"), Part(1, 2, 2, "b")), "");
}

TEST_F(SplitModel, RefusesATensorThatTwoPartsHave) {
  EXPECT_EQ(TwoParts(Part(0, 2, 2, "a"), Part(1, 2, 2, "a")),
            "two-00002-of-00002.gguf:a: expected every tensor in one part, found this one in two-00001-of-00002.gguf "
            "too; fetch all parts of one model again");
}

TEST_F(SplitModel, RefusesAPartThatSaysSomethingElseOfTheModel) {
  const auto part = [](int number, const char* name) {
    GgufBuilder file;
    file.AddSplit(number, 2, 0);
    file.AddString("general.name", name);
    return file.Bytes();
  };
  EXPECT_EQ(TwoParts(part(0, "one"), part(1, "one")), "");
  EXPECT_EQ(TwoParts(part(0, "one"), part(1, "two")),
            "two-00002-of-00002.gguf:general.name: expected the value that two-00001-of-00002.gguf has, found another; "
            "the file is part of another model, fetch all parts again");
}

TEST_F(SplitModel, NamesThePartThatIsCutShort) {
  const std::string last = files_[kNames[2]];
  for (size_t length = 0; length < last.size(); length += 61) {
    files_[kNames[2]] = last.substr(0, length);
    EXPECT_THAT(Message(), HasSubstr("m-00003-of-00003.gguf: expected")) << length;
  }
}

TEST_F(SplitModel, NamesThePartThatHoldsABadWeight) {
  const std::string names[] = {"two-00001-of-00002.gguf", "two-00002-of-00002.gguf"};
  const std::string first = Part(0, 2, 2, "a"), second = Part(1, 2, 2, "b", std::numeric_limits<float>::infinity());
  const GgufFile gguf = GgufFile::FromBytes(names[0], Files{{names[0], first}, {names[1], second}});
  EXPECT_NO_THROW(Weights(gguf, *gguf.Find("a")));
  EXPECT_THAT(MessageOf([&] { Weights(gguf, *gguf.Find("b")); }),
              HasSubstr("two-00002-of-00002.gguf:b: expected finite weights, found inf at row 0, column 0"));
  EXPECT_THAT(MessageOf([&] { gguf.RequireTensor("b", std::vector<int64_t>{2}); }),
              HasSubstr("two-00002-of-00002.gguf:b: expected shape [2], found [1]"));
}

// Bytes of mapped files that are in this process's memory.
int64_t MappedBytes() {
  std::ifstream status("/proc/self/statm");
  int64_t size = 0, resident = 0, shared = 0;
  status >> size >> resident >> shared;
  return shared * sysconf(_SC_PAGESIZE);
}

TEST(GgufMemory, IsTakenWhenWeightsAreReadAndGivenBack) {
  constexpr int64_t kBytes = 32 << 20;
  GgufBuilder file;
  file.AddTensor("before", GgufType::kF32, {1}, std::string(4, '\0'));
  file.AddTensor("large", GgufType::kF32, {1024, kBytes / 4096}, std::string(kBytes, '\x11'));
  file.AddTensor("after", GgufType::kF32, {1}, std::string(4, '\0'));
  const std::string path = WriteTempFile("memory.gguf", file.Bytes());
  const int64_t at_first = MappedBytes();
  const GgufFile gguf = GgufFile::Open(path);
  EXPECT_LT(MappedBytes() - at_first, kBytes / 4) << "Open read the weights";
  const GgufTensor& large = *gguf.Find("large");
  std::vector<float> row(large.Cols());
  for (int64_t i = 0; i < large.Rows(); ++i) gguf.Dequantize(large, i, row);
  const int64_t when_read = MappedBytes();
  EXPECT_GT(when_read - at_first, kBytes / 2);
  const std::vector<float> last = row;
  gguf.Release(large);
  EXPECT_LT(MappedBytes() - when_read, -kBytes / 2);
  gguf.Dequantize(large, large.Rows() - 1, row);
  EXPECT_EQ(row, last);
  gguf.Release(*gguf.Find("before"));  // less than a page
  EXPECT_EQ(Weights(gguf, *gguf.Find("after")), std::vector<float>{0});
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace kvscope
