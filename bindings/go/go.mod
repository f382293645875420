module github.com/vmclock/vmclock/bindings/go

go 1.19
