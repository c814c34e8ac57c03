#include "worker/pack_rows.h"

#include "common/base/check.h"

namespace coppice {

PackRows::PackRows(Backend& backend, const BackboneConfig& config, const Pack& pack, const PackTokens* tokens,
                   const AdapterCache& adapters, RotaryTable& rotary)
    : pack_(pack) {
  check();
  list_rows(backend, rotary, config.head_dim);
  if (tokens != nullptr) {
    CHECK(int64_t(tokens->size()) == pack_.rows);
    token_ids_ = backend.allocate(tokens->size() * sizeof(int32_t));
    backend.upload(tokens->data(), token_ids());
  }
  bind(adapters);
}

void PackRows::check() const {
  int64_t row = 0, lowest_layer = -1;
  for (const Segment& segment : pack_.segments) {
    CHECK(segment.row == row && !segment.sequences.empty());
    CHECK(segment.lowest_layer >= lowest_layer);
    CHECK(segment.training == (segment.lowest_layer != kNoBackward));
    lowest_layer = segment.lowest_layer;
    for (const PackSequence& sequence : segment.sequences) {
      CHECK(sequence.row == row && sequence.rows() > 0);
      row += sequence.rows();
    }
    CHECK(segment.row + segment.rows == row);
  }
  CHECK(row == pack_.rows && row > 0);
}

void PackRows::list_rows(Backend& backend, RotaryTable& rotary, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  std::vector<float> cosines(size_t(pack_.rows * half)), sines(cosines.size());
  for (size_t s = 0; s < pack_.segments.size(); ++s) {
    for (const PackSequence& sequence : pack_.segments[s].sequences) {
      sequences_.push_back({sequence.row, sequence.rows(), s});
      for (int64_t i = 0; i < sequence.rows(); ++i) {
        host_row_ids_.push_back(int32_t(sequence.in_step));
        host_row_ids_.push_back(int32_t(i));
      }
      rotary.rows(sequence.first_position, sequence.rows(), &cosines[size_t(sequence.row * half)],
                  &sines[size_t(sequence.row * half)]);
    }
  }
  row_ids_ = backend.allocate(host_row_ids_.size() * sizeof(int32_t));
  backend.upload(host_row_ids_.data(), row_ids_.matrix(pack_.rows, 2, DType::kI32));
  cosines_ = make_rows(backend, pack_.rows, half);
  sines_ = make_rows(backend, pack_.rows, half);
  backend.upload(cosines.data(), cosines_.matrix);
  backend.upload(sines.data(), sines_.matrix);
}

void PackRows::follow(Backend& backend) {
  if (followed_) return;
  followed_ = true;
  for (size_t s = 0; s < adapters_.size(); ++s)
    if (adapters_[s] && pack_.segments[s].training) adapters_[s]->follow(backend, pack_.segments[s]);
}

void PackRows::bind(const AdapterCache& adapters) {
  for (size_t s = 0; s < pack_.segments.size(); ++s) {
    const Segment& segment = pack_.segments[s];
    adapters_.push_back(adapters.find(segment.job));
    CachedAdapter* cached = adapters_.back().get();
    if (cached == nullptr) continue;
    CHECK(cached->version == segment.version);
    CHECK(cached->training || !segment.training);
    HookUse use;
    use.adapter = &cached->adapter;
    use.segment = &segment;
    use.number = int64_t(s);
    use.row = segment.row;
    use.rows = segment.rows;
    use.row_ids = row_ids_.matrix(pack_.rows, 2, DType::kI32).row_range(segment.row, segment.rows);
    if (!token_ids_.empty()) use.token_ids = token_ids().row_range(segment.row, segment.rows);
    uses_.add(*cached, use);
  }
}

}  // namespace coppice
