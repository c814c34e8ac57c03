// A tokenizer.json from outside may hold anything: it loads or is refused with an Error, and nothing else
// happens.
#include <functional>
#include <random>

#include <gtest/gtest.h>

#include "common/base/error.h"
#include "tests/unit/common/text/small_tokenizer.h"

namespace coppice {
namespace {

const std::vector<Json> kDocuments = {small_byte_level(), small_byte_fallback()};

// Whether text loads; what loads must work.
bool loads(const BackboneFolder& folder, const std::string& text) {
  folder.write("tokenizer.json", text);
  try {
    const Tokenizer tokenizer = Tokenizer::load(folder.path());
    const auto ids = tokenizer.encode("ab é <s>中 \xff'12  ");
    tokenizer.decode(ids, false);
    return true;
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return false;
  }
}

TEST(MalformedTokenizerTest, CutFilesAreRefused) {
  const BackboneFolder folder;
  for (const Json& document : kDocuments) {
    const std::string text = document.dump();
    ASSERT_TRUE(loads(folder, text));
    for (size_t size = 0; size < text.size(); size += 53)
      EXPECT_FALSE(loads(folder, text.substr(0, size))) << size;
  }
}

TEST(MalformedTokenizerTest, ChangedBytesNeverCrash) {
  const BackboneFolder folder;
  std::mt19937 random(7);
  int good = 0, refused = 0;
  for (const Json& document : kDocuments) {
    const std::string text = document.dump();
    for (int round = 0; round < 300; ++round) {
      std::string changed = text;
      const size_t changes = 1 + random() % 2;
      for (size_t n = 0; n < changes; ++n) {
        const size_t at = random() % changed.size();
        switch (random() % 4) {
          case 0:
            changed[at] = char(random() % 256);
            break;
          case 1:
            changed[at] = "\"\\{}[]:,0-9ntf"[random() % 14];
            break;
          case 2:
            changed.erase(at, 1 + random() % 8);
            break;
          default:
            changed.insert(at, changed.substr(random() % changed.size(), random() % 30));
            break;
        }
        if (changed.empty()) changed = "x";
      }
      (loads(folder, changed) ? good : refused) += 1;
    }
  }
  EXPECT_GT(refused, 100);
  EXPECT_GT(good, 5);
}

TEST(MalformedTokenizerTest, ValuesOfOtherKindsNeverCrash) {
  const BackboneFolder folder;
  const std::vector<Json> values = {nullptr,
                                    true,
                                    0,
                                    -1,
                                    1e300,
                                    4294967296,
                                    "",
                                    "x",
                                    "\\p{",
                                    Json::array(),
                                    Json::object(),
                                    Json{{"type", "NFC"}},
                                    Json{{"String", "a"}}};
  size_t next = 0;
  for (const Json& document : kDocuments) {
    int refused = 0;
    const Json flat = document.flatten();
    for (const auto& [pointer, original] : flat.items()) {
      // The vocabulary's entries are all alike, and so are the merges.
      if (pointer.starts_with("/model/vocab/") || pointer.starts_with("/model/merges/")) {
        if (++next % 5 != 0) continue;
      }
      // Each value in turn and, where it is the first of its list or object, what is around it.
      for (Json::json_pointer place(pointer); !place.empty(); place = place.parent_pointer()) {
        for (int round = 0; round < 3; ++round) {
          Json changed = document;
          changed[place] = values[next++ % values.size()];
          refused += !loads(folder, changed.dump());
        }
        if (place.back() != "type" && place.back() != "0") break;
      }
    }
    EXPECT_GT(refused, 100);
  }
}

}  // namespace
}  // namespace coppice
