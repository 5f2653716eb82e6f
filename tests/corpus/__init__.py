"""Any folder of DICOM files as a regression: outcomes, times, and rendering against DCMTK."""
