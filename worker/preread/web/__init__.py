"""The doctors' page and the API: server-rendered, beside the worker's database; it parses no film, ever."""
