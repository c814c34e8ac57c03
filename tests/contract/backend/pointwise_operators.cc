#include "tests/contract/backend/operators.h"
#include "tests/contract/backend/tolerance.h"

namespace coppice::contract {
namespace {

using Run = std::function<void(Backend&, std::span<const Placed>)>;
using Make = std::function<Item(Size, Random&)>;

Operator grouped(const std::string& name, Make make, Run run) {
  return {name, pointwise_sizes(), std::move(make), std::move(run), kSumTolerance, {}, {}, true};
}
Operator single(const std::string& name, Make make, Run run) {
  return {name, pointwise_sizes(), std::move(make), std::move(run), kSumTolerance, {}, {}, false};
}

// inputs arrays of rows, values up to scale, and one row output.
Make rows_to_row(int inputs, float scale = 1) {
  return [=](Size size, Random& random) {
    Item item;
    for (int i = 0; i < inputs; ++i) item.push_back(row_in(uniform(size.rows, size.cols, random, scale)));
    item.push_back(row_out(size.rows, size.cols));
    return item;
  };
}

struct NamedActivation {
  Activation f;
  const char* name;
};
constexpr NamedActivation kActivations[] = {{Activation::kSilu, "silu"},
                                            {Activation::kGelu, "gelu"},
                                            {Activation::kGeluTanh, "gelu_tanh"},
                                            {Activation::kRelu, "relu"}};

void add_activation(std::vector<Operator>& all, NamedActivation named) {
  const Activation f = named.f;
  const std::string name = named.name;
  all.push_back(grouped("activation_" + name, rows_to_row(1, 6), [=](Backend& backend, auto items) {
    std::vector<UnaryItem> list;
    for (const Placed& item : items) list.push_back({item[0], item[1]});
    backend.activation(f, list);
  }));
  all.push_back(grouped("activation_backward_" + name, rows_to_row(2, 6), [=](Backend& backend, auto items) {
    std::vector<UnaryBackwardItem> list;
    for (const Placed& item : items) list.push_back({item[0], item[1], item[2]});
    backend.activation_backward(f, list);
  }));
  const Make in_place = [](Size size, Random& random) -> Item {
    return {row_in(uniform(size.rows, size.cols, random, 6)),
            row_inout(uniform(size.rows, size.cols, random))};
  };
  all.push_back(grouped("activation_backward_in_place_" + name, in_place, [=](Backend& backend, auto items) {
    std::vector<UnaryBackwardItem> list;
    for (const Placed& item : items) list.push_back({item[0], item[1], item[1]});
    backend.activation_backward(f, list);
  }));
}

void add_gated(std::vector<Operator>& all, NamedActivation named) {
  const Activation f = named.f;
  const std::string name = named.name;
  const Operator gated =
      single("gated_activation_" + name, rows_to_row(2, 6), [=](Backend& backend, auto items) {
        backend.gated_activation(f, items[0][0], items[0][1], items[0][2]);
      });
  all.insert(all.end(), {gated, rounded(gated, {0, 1}), rounded(gated, {2}, kRoundedTolerance),
                         rounded(gated, {0, 1, 2}, kRoundedTolerance)});
  const Make five = [](Size size, Random& random) -> Item {
    return {row_in(uniform(size.rows, size.cols, random, 6)), row_in(uniform(size.rows, size.cols, random)),
            row_in(uniform(size.rows, size.cols, random)), row_out(size.rows, size.cols),
            row_out(size.rows, size.cols)};
  };
  const Operator backward =
      single("gated_activation_backward_" + name, five, [=](Backend& backend, auto items) {
        const Placed& item = items[0];
        backend.gated_activation_backward(f, item[0], item[1], item[2], item[3], item[4]);
      });
  all.insert(all.end(), {backward, rounded(backward, {0, 1}), rounded(backward, {2}),
                         rounded(backward, {3, 4}, kRoundedTolerance),
                         rounded(backward, {0, 1, 2, 3, 4}, kRoundedTolerance)});
  const Make in_place = [](Size size, Random& random) -> Item {
    return {row_inout(uniform(size.rows, size.cols, random, 6)),
            row_inout(uniform(size.rows, size.cols, random)), row_in(uniform(size.rows, size.cols, random))};
  };
  const Operator backward_in_place =
      single("gated_activation_backward_in_place_" + name, in_place, [=](Backend& backend, auto items) {
        const Placed& item = items[0];
        backend.gated_activation_backward(f, item[0], item[1], item[2], item[0], item[1]);
      });
  all.insert(all.end(), {backward_in_place, rounded(backward_in_place, {0, 1}, kRoundedTolerance),
                         rounded(backward_in_place, {0, 1, 2}, kRoundedTolerance)});
}

std::vector<Operator> scale_operators() {
  const auto run = [](bool in_place) {
    return [=](Backend& backend, std::span<const Placed> items) {
      std::vector<ScaleColumnsItem> list;
      for (const Placed& item : items) list.push_back({item[0], item[1], in_place ? item[0] : item[2]});
      backend.scale_columns(list);
    };
  };
  const Make separate = [](Size size, Random& random) -> Item {
    return {row_in(uniform(size.rows, size.cols, random)), whole_in(uniform(1, size.cols, random)),
            row_out(size.rows, size.cols)};
  };
  const Make in_place = [](Size size, Random& random) -> Item {
    return {row_inout(uniform(size.rows, size.cols, random)), whole_in(uniform(1, size.cols, random))};
  };
  return {grouped("scale_columns", separate, run(false)),
          grouped("scale_columns_in_place", in_place, run(true))};
}

enum class Dx { kOwn, kInPlace, kNone };

Operator scale_backward(const std::string& name, Dx dx) {
  const Make make = [=](Size size, Random& random) -> Item {
    const Array dy = uniform(size.rows, size.cols, random);
    return {row_in(uniform(size.rows, size.cols, random)), whole_in(uniform(1, size.cols, random)),
            dx == Dx::kInPlace ? row_inout(dy) : row_in(dy), row_out(size.rows, size.cols),
            whole_inout(uniform(1, size.cols, random))};
  };
  return grouped(name, make, [=](Backend& backend, auto items) {
    std::vector<ScaleColumnsBackwardItem> list;
    for (const Placed& item : items) {
      const Matrix to = dx == Dx::kOwn ? item[3] : dx == Dx::kInPlace ? item[2] : Matrix();
      list.push_back({item[0], item[1], item[2], to, item[4]});
    }
    backend.scale_columns_backward(list);
  });
}

std::vector<Operator> adding_operators() {
  const Make two = [](Size size, Random& random) -> Item {
    return {row_in(uniform(size.rows, size.cols, random)), row_inout(uniform(size.rows, size.cols, random))};
  };
  const Make bias = [](Size size, Random& random) -> Item {
    return {whole_in(uniform(1, size.cols, random)), row_inout(uniform(size.rows, size.cols, random))};
  };
  const Make bias_backward = [](Size size, Random& random) -> Item {
    return {whole_inout(uniform(1, size.cols, random)), row_in(uniform(size.rows, size.cols, random))};
  };
  const auto unary = [](void (Backend::*op)(std::span<const UnaryItem>)) {
    return [=](Backend& backend, std::span<const Placed> items) {
      std::vector<UnaryItem> list;
      for (const Placed& item : items) list.push_back({item[0], item[1]});
      (backend.*op)(list);
    };
  };
  const auto with_bias = [](void (Backend::*op)(std::span<const BiasItem>)) {
    return [=](Backend& backend, std::span<const Placed> items) {
      std::vector<BiasItem> list;
      for (const Placed& item : items) list.push_back({item[0], item[1]});
      (backend.*op)(list);
    };
  };
  return {grouped("copy", rows_to_row(1), unary(&Backend::copy)), grouped("add", two, unary(&Backend::add)),
          grouped("add_bias", bias, with_bias(&Backend::add_bias)),
          grouped("add_bias_backward", bias_backward, with_bias(&Backend::add_bias_backward))};
}

}  // namespace

std::vector<Operator> pointwise_operators() {
  std::vector<Operator> all = adding_operators();
  for (Operator& op : scale_operators()) all.push_back(std::move(op));
  all.push_back(scale_backward("scale_columns_backward", Dx::kOwn));
  all.push_back(scale_backward("scale_columns_backward_in_place", Dx::kInPlace));
  all.push_back(scale_backward("scale_columns_backward_without_dx", Dx::kNone));
  for (NamedActivation named : kActivations) {
    add_activation(all, named);
    add_gated(all, named);
  }
  all.push_back(rounded(scale_backward("scale_columns_backward", Dx::kOwn), {0}));  // x
  return all;
}

std::vector<Operator> row_moving_operators() {
  std::vector<Operator> all;
  for (bool accumulate : {false, true}) {
    const Make make = [=](Size size, Random& random) -> Item {
      return {row_in(uniform(size.rows, size.cols, random)),
              accumulate ? row_inout(uniform(size.rows, size.cols, random)) : row_out(size.rows, size.cols),
              row_in(indices(size.rows, 5000, random, 2))};
    };
    const Operator dropout =
        grouped(accumulate ? "dropout_accumulate" : "dropout", make, [=](Backend& backend, auto items) {
          std::vector<DropoutItem> list;
          for (const Placed& item : items)
            list.push_back({item[0], item[1], item[2], 0x123456789abcdef, 0.3f, accumulate});
          backend.dropout(list);
        });
    all.insert(all.end(), {dropout, rounded(dropout, {0})});
  }
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const Make make = [=](Size size, Random& random) -> Item {
      const Array table =
          uniform(7, size.cols, random);  // fewer than rows: the same row is read more than once
      return {row_in(indices(size.rows, 7, random)), row_out(size.rows, size.cols),
              whole_in(dtype == DType::kF32 ? table : in_dtype(table, dtype))};
    };
    all.push_back(
        grouped("gather_rows_" + std::string(dtype_name(dtype)), make, [](Backend& backend, auto items) {
          std::vector<GatherItem> list;
          for (const Placed& item : items) list.push_back({item[2], item[0], item[1]});
          backend.gather_rows(list);
        }));
  }
  const Make scatter = [](Size size, Random& random) -> Item {
    return {row_in(indices(size.rows, 7, random)), row_in(uniform(size.rows, size.cols, random)),
            whole_inout(uniform(7, size.cols, random))};
  };
  all.push_back(grouped("scatter_add_rows", scatter, [](Backend& backend, auto items) {
    std::vector<GatherItem> list;
    for (const Placed& item : items) list.push_back({item[2], item[0], item[1]});
    backend.scatter_add_rows(list);
  }));
  return all;
}

}  // namespace coppice::contract
