#include <map>

#include "common/store/kv_store.h"

namespace coppice {
namespace {

class MemoryStore : public KvStore {
 public:
  std::optional<std::string> get(std::string_view key) const override {
    const auto it = values_.find(key);
    if (it == values_.end()) return std::nullopt;
    return it->second;
  }

  void scan(std::string_view prefix,
            const std::function<bool(std::string_view key, std::string_view value)>& visit) const override {
    for (auto it = values_.lower_bound(prefix); it != values_.end() && it->first.starts_with(prefix); ++it) {
      if (!visit(it->first, it->second)) return;
    }
  }

  void write(const Batch& batch, bool /*sync*/) override {
    for (const Batch::Change& change : batch.changes) {
      switch (change.kind) {
        case Batch::Kind::kPut:
          values_[change.key] = change.value;
          break;
        case Batch::Kind::kErase:
          values_.erase(change.key);
          break;
        case Batch::Kind::kEraseRange:
          if (change.key < change.value)
            values_.erase(values_.lower_bound(change.key), values_.lower_bound(change.value));
          break;
      }
    }
  }

 private:
  std::map<std::string, std::string, std::less<>> values_;
};

}  // namespace

std::unique_ptr<KvStore> make_memory_store() {
  return std::make_unique<MemoryStore>();
}

}  // namespace coppice
