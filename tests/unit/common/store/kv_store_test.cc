// What every store must do, the real one and its twin.

#include "common/store/kv_store.h"

#include <gmock/gmock.h>

#include "tests/unit/common/io/testing.h"

namespace coppice {
namespace {

using Values = std::vector<std::pair<std::string, std::string>>;
using ::testing::ElementsAre;
using ::testing::Pair;

Values values_of(const KvReader& store, std::string_view prefix) {
  Values values;
  store.scan(prefix, [&](std::string_view key, std::string_view value) {
    values.emplace_back(key, value);
    return true;
  });
  return values;
}

class KvStoreTest : public ::testing::TestWithParam<std::string> {
 protected:
  TestFolder folder_;
  std::unique_ptr<KvStore> store_ =
      GetParam() == "memory" ? make_memory_store() : open_rocksdb(folder_.file("store"));

  void put(std::string key, std::string value) {
    Batch batch;
    batch.put(std::move(key), std::move(value));
    store_->write(batch, false);
  }
};

TEST_P(KvStoreTest, GivesBackWhatWasPut) {
  EXPECT_EQ(store_->get("a"), std::nullopt);
  const std::string bytes("\0\xff\n", 3);
  put("a", "1");
  put("b", "");
  put(bytes, bytes);
  put("large", std::string(3 << 20, 'l'));
  EXPECT_EQ(store_->get("a"), "1");
  EXPECT_EQ(store_->get("b"), "");
  EXPECT_EQ(store_->get(bytes), bytes);
  EXPECT_EQ(store_->get("large"), std::string(3 << 20, 'l'));
  put("a", "2");
  EXPECT_EQ(store_->get("a"), "2");
}

TEST_P(KvStoreTest, ScansAPrefixInOrderOfBytes) {
  for (const char* key : {"j", "job/\xff", "job/b/2", "job/b/1", "job/a", "job0", "job/", "k"}) put(key, key);
  EXPECT_THAT(values_of(*store_, "job/"),
              ElementsAre(Pair("job/", "job/"), Pair("job/a", "job/a"), Pair("job/b/1", "job/b/1"),
                          Pair("job/b/2", "job/b/2"), Pair("job/\xff", "job/\xff")));
  EXPECT_EQ(values_of(*store_, "").size(), 8u);
  EXPECT_TRUE(values_of(*store_, "l").empty());
}

TEST_P(KvStoreTest, AScanStopsWhereItIsTold) {
  for (const char* key : {"a", "b", "c"}) put(key, "");
  std::string seen;
  store_->scan("", [&](std::string_view key, std::string_view) {
    seen += key;
    return key != "b";
  });
  EXPECT_EQ(seen, "ab");
}

TEST_P(KvStoreTest, ChangesOfABatchHappenInTheirOrder) {
  Batch batch;
  batch.put("a", "1");
  batch.erase("a");
  batch.put("b", "1");
  batch.erase_range("a", "c");
  batch.put("b", "2");
  batch.put("c", "3");
  batch.erase("never there");
  store_->write(batch, true);
  EXPECT_THAT(values_of(*store_, ""), ElementsAre(Pair("b", "2"), Pair("c", "3")));
}

TEST_P(KvStoreTest, ARangeIsErasedWithoutItsEnd) {
  for (const char* key : {"a", "b", "b/1", "c", "d"}) put(key, "");
  Batch batch;
  batch.erase_range("b", "c");
  batch.erase_range("d", "d");
  store_->write(batch, true);
  EXPECT_THAT(values_of(*store_, ""), ElementsAre(Pair("a", ""), Pair("c", ""), Pair("d", "")));
}

INSTANTIATE_TEST_SUITE_P(All, KvStoreTest, ::testing::Values("memory", "rocksdb"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace coppice
