module github.com/vmclock/vmclock/benches/peers/go

go 1.19

require github.com/vmclock/vmclock/bindings/go v0.0.0

replace github.com/vmclock/vmclock/bindings/go => ../../../bindings/go
