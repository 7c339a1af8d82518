package command

import (
	"reflect"
	"testing"
	"time"
)

// TestPointers: a parameter that may be left out is read from JSON as from text.
func TestPointers(t *testing.T) {
	type args struct {
		After *time.Duration `json:"after" doc:"a time"`
		Count *int           `json:"count" doc:"a number"`
		On    *bool          `json:"on" doc:"a switch"`
	}
	p, err := ParamsOf(reflect.TypeFor[args]())
	if err != nil {
		t.Fatal(err)
	}
	in, err := p.FromJSON([]byte(`{"after":"90s","count":0,"on":null}`))
	if err != nil {
		t.Fatal(err)
	}
	a, ok := in.(args)
	if !ok || a.After == nil || *a.After != 90*time.Second || a.Count == nil || *a.Count != 0 || a.On != nil {
		t.Errorf("%#v", in)
	}
	if _, err := p.FromJSON([]byte(`{"after":"soon"}`)); err == nil {
		t.Error(`"soon" is taken as a duration`)
	}
}
